import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.CloseOptions.GroupMembershipOperation;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/**
 * The same applications in Kafka Streams, to hand state to and to take it from.
 *
 * <p>Arguments are {@code key=value}: {@code topology} (inventory, tables), {@code leave_group}, the topology's topics, and
 * everything else for {@link StreamsConfig}. It says {@code listening on <host:port>} and answers there {@code GET /state} and,
 * while it runs, {@code GET /rows/<store>} as one JSON object. SIGTERM closes it, and it says {@code closed}; a stream
 * thread's death ends it with status 3 and the line {@code stopped by <exception>}.
 */
final class Application {
    private static final int STOPPED_BY_ERROR = 3;

    private final KafkaStreams streams;
    private final boolean leaveGroup;

    private Application(Map<String, String> arguments) {
        String topology = arguments.remove("topology");
        leaveGroup = Boolean.parseBoolean(arguments.remove("leave_group"));
        Properties properties = new Properties();
        Topology built = switch (topology) {
            case "inventory" -> Inventory.topology(new StreamsBuilder(), arguments);
            case "tables" -> Tables.topology(new StreamsBuilder(), arguments);
            default -> throw new IllegalArgumentException("topology is inventory or tables, not " + topology);
        };
        properties.putAll(arguments);
        streams = new KafkaStreams(built, new StreamsConfig(properties));
        streams.setUncaughtExceptionHandler(error -> {
            Throwable cause = error;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            System.out.println("stopped by " + cause);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    }

    public static void main(String[] args) throws Exception {
        Map<String, String> arguments = new TreeMap<>();
        for (String arg : args) {
            int at = arg.indexOf('=');
            arguments.put(arg.substring(0, at), arg.substring(at + 1));
        }
        new Application(arguments).run();
    }

    private void run() throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/state", exchange -> answer(exchange, 200, streams.state().name()));
        server.createContext("/rows/", this::rows);
        server.start();

        CountDownLatch failed = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            System.out.println(before + " -> " + now);
            if (now == KafkaStreams.State.ERROR) {
                failed.countDown();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(this::close, "shutdown"));
        streams.start();
        System.out.println("listening on 127.0.0.1:" + server.getAddress().getPort());
        failed.await();
        System.exit(STOPPED_BY_ERROR);
    }

    private void close() {
        GroupMembershipOperation operation =
            leaveGroup ? GroupMembershipOperation.LEAVE_GROUP : GroupMembershipOperation.REMAIN_IN_GROUP;
        CloseOptions options = CloseOptions.timeout(Duration.ofSeconds(30)).withGroupMembershipOperation(operation);
        System.out.println(streams.close(options) ? "closed" : "not closed in time");
    }

    private void rows(HttpExchange exchange) throws IOException {
        String store = exchange.getRequestURI().getPath().substring("/rows/".length());
        Map<String, Object> rows = new TreeMap<>();
        try {
            ReadOnlyKeyValueStore<String, Object> table =
                streams.store(StoreQueryParameters.fromNameAndType(store, QueryableStoreTypes.keyValueStore()));
            try (KeyValueIterator<String, Object> all = table.all()) {
                all.forEachRemaining(row -> rows.put(row.key, row.value));
            }
        } catch (RuntimeException notNow) {
            answer(exchange, 503, notNow.toString());
            return;
        }
        answer(exchange, 200, Json.MAPPER.writeValueAsString(rows));
    }

    private static void answer(HttpExchange exchange, int status, String text) throws IOException {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }
}
