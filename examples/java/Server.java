import com.sun.net.httpserver.HttpHandler;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** A server that does not know about reberth. It reads PORT, answers with its name, and answers "ok" on /health. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        var environment = System.getenv();
        var instance = environment.get("INSTANCE");
        var name = instance != null ? instance : InetAddress.getLocalHost().getHostName();
        var port = Integer.parseInt(environment.getOrDefault("PORT", "7878"));

        var server = HttpServer.create(new InetSocketAddress(port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/health", says("ok"));
        server.createContext("/", says(name));
        server.start();

        // Finish pending requests before exiting.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
    }

    private static HttpHandler says(String text) {
        var body = text.getBytes();
        return exchange -> {
            try (exchange) {
                exchange.sendResponseHeaders(200, body.length);
                exchange.getResponseBody().write(body);
            }
        };
    }
}
