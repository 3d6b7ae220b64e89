"use strict";
document.getElementById("toggle-nav-sidebar")?.addEventListener("click", () => {
  document.getElementById("main").classList.toggle("shifted");
});
