SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  displayRequestDuration: true,
  // Nobody else is asked whether the document is valid.
  validatorUrl: null,
});
