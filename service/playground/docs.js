// Swagger UI on this service's own schema; it asks no other host, not even to validate.
window.SwaggerUIBundle({
  url: new URL("../openapi.json", import.meta.url).href,
  dom_id: "#swagger",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  layout: "BaseLayout",
  presets: [window.SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});

// Its own dark colours, where the other pages are dark.
const system = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  const { theme } = document.documentElement.dataset;
  document.documentElement.classList.toggle("dark-mode", theme ? theme === "dark" : system.matches);
};
system.addEventListener("change", paint);
paint();
