// A server that knows nothing of reberth: it takes its port from PORT, answers with its own name, and says on /health that it is well.
const http = require("node:http");

const name = process.env.INSTANCE || require("node:os").hostname();
const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "text/plain");
  response.end(request.url === "/health" ? "ok" : name);
});
server.listen(Number(process.env.PORT || 7878), "0.0.0.0");

// What is under way is answered before the end.
process.on("SIGTERM", () => server.close());
