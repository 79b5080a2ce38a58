// Shows the OpenAPI document of the API that serves this page. All addresses are relative: a proxy may add a path.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  docExpansion: "list",
  filter: false,
  tryItOutEnabled: false,
  // No other server learns of this document.
  validatorUrl: null,
});
