"use strict";
addEventListener("load", () => {
  const themes = ["auto", "light", "dark"];
  const root = document.documentElement;
  root.dataset.theme = localStorage.getItem("theme") || "auto";
  for (const button of document.querySelectorAll(".theme-toggle")) {
    button.addEventListener("click", () => {
      root.dataset.theme = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
      localStorage.setItem("theme", root.dataset.theme);
    });
  }
});
