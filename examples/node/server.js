// A server that does not know about reberth. It reads PORT, answers with its name, and answers "ok" on /health.
const http = require("node:http");

const name = process.env.INSTANCE || require("node:os").hostname();
const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "text/plain");
  response.end(request.url === "/health" ? "ok" : name);
});
server.listen(Number(process.env.PORT || 7878), "0.0.0.0");

// Finish pending requests before exiting.
process.on("SIGTERM", () => server.close());
