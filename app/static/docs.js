"use strict";

// Starts Swagger UI on the page's own OpenAPI document. Whoever logs in by "Try it out" is authorized for the other operations at once.
(() => {
  const element = document.getElementById("swagger-ui");
  const { openapiUrl, loginPath, bearerScheme, tenantScheme } = element.dataset;
  let tenantSlug = null;

  const ui = SwaggerUIBundle({
    domNode: element,
    url: openapiUrl,
    validatorUrl: null,
    deepLinking: true,
    displayRequestDuration: true,
    filter: true,
    persistAuthorization: true,
    tryItOutEnabled: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    defaultModelExpandDepth: 3,
    syntaxHighlight: { theme: "obsidian" },
    requestInterceptor: (request) => {
      if (isLogin(request.url)) rememberTenant(request.body);
      return request;
    },
    responseInterceptor: (response) => {
      if (isLogin(response.url) && response.ok) authorize(response.text);
      return response;
    },
  });

  function isLogin(url) {
    return new URL(url, document.baseURI).pathname.endsWith(loginPath);
  }

  function rememberTenant(body) {
    try {
      tenantSlug = JSON.parse(body).tenant_slug ?? null;
    } catch {
      tenantSlug = null; // The server says what is wrong with the body.
    }
  }

  function authorize(answer) {
    ui.preauthorizeApiKey(bearerScheme, JSON.parse(answer).access_token);
    if (tenantSlug) ui.preauthorizeApiKey(tenantScheme, tenantSlug);
    ui.getSystem().authActions.persistAuthorizationIfNeeded();
  }
})();
