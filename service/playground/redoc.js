// ReDoc on this service's own schema, in the colours of the other pages.
const ink = "#1b1f24";
const options = {
  disableSearch: false,
  hideDownloadButton: false,
  theme: {
    colors: { primary: { main: "#0a5fc2" }, text: { primary: ink, secondary: "#566069" } },
    typography: {
      fontFamily: "inherit",
      headings: { fontFamily: "inherit" },
      code: { fontFamily: "ui-monospace, monospace" },
    },
    sidebar: { backgroundColor: "#f5f7f9", textColor: ink },
    rightPanel: { backgroundColor: "#1c2127" },
  },
};
window.Redoc.init(new URL("../openapi.json", import.meta.url).href, options, document.getElementById("redoc"));
