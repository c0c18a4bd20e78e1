// Swagger UI on this service's own schema; it asks no other host, not even to validate.
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  layout: "BaseLayout",
  presets: [window.SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});
