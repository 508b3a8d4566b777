// Tells Serinus which pages are shown and what is clicked, as OpenTelemetry log events (OTLP over HTTP, in JSON).
//   <script src="/beacon.js" data-to="https://shop.example" data-service="shop" async></script>
// Who it is says the cookie that Envoy has minted, which the browser sends along. Clicks count on elements with an ID.
(() => {
  const { to = "", service } = document.currentScript.dataset;
  const text = (attributes) =>
    Object.entries(attributes).map(([key, value]) => ({ key, value: { stringValue: String(value) } }));
  let waiting = [];

  function send() {
    if (!waiting.length) return;
    const body = JSON.stringify({
      resourceLogs: [{
        resource: { attributes: text({ "service.name": service }) },
        scopeLogs: [{ scope: { name: "beacon" }, logRecords: waiting }],
      }],
    });
    waiting = [];
    // keepalive: what is sent while the page is being left arrives as well
    fetch(to + "/v1/logs", {
      method: "POST", body, keepalive: true, credentials: "include", headers: { "content-type": "application/json" },
    }).catch(() => {});
  }

  function tell(eventName, attributes) {
    const all = text({ ...attributes, "url.path": location.pathname });
    waiting.push({ timeUnixNano: `${Date.now()}000000`, eventName, attributes: all });
    if (waiting.length === 1) setTimeout(send, 100);
  }

  tell("browser.page_view", {});
  addEventListener("click", ({ target }) => {
    const element = target.closest?.("[id]");
    if (element) tell("app.widget.click", { "app.widget.id": element.id });
  }, true);
  addEventListener("pagehide", send);
})();
