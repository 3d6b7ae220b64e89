Redoc.init("/openapi.json", { hideDownloadButtons: true, expandResponses: "200" }, document.getElementById("reference"));
