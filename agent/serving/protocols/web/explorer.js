// Shows the API that this very server describes, with a form for each operation.

globalThis.SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("explorer"),
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // It would ask a host of its makers whether the description is valid.
  validatorUrl: null,
});
