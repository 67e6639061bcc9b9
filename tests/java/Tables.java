import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/** The counterpart of tests/examples/tables.rs: counts of words, a table with deletions, and that table grouped anew. */
final class Tables {
    private Tables() {}

    static Topology topology(StreamsBuilder builder, Map<String, String> arguments) {
        Serde<String> text = Serdes.String();
        builder.stream(arguments.remove("lines_topic"), Consumed.with(text, text))
            .flatMapValues(line -> words(line))
            .groupBy((key, word) -> word, Grouped.with(text, text))
            .count(table("Counts", Serdes.Long()));
        builder.table(arguments.remove("homes_topic"), Consumed.with(text, text), table("Homes", text))
            .groupBy((person, city) -> KeyValue.pair(city, person), Grouped.with(text, text))
            .count(table("Residents", Serdes.Long()));
        return builder.build();
    }

    private static List<String> words(String line) {
        return Arrays.asList(line.toLowerCase(Locale.ROOT).split("\\s+"));
    }

    private static <V> Materialized<String, V, KeyValueStore<Bytes, byte[]>> table(String name, Serde<V> values) {
        return Materialized.<String, V, KeyValueStore<Bytes, byte[]>>as(name)
            .withKeySerde(Serdes.String())
            .withValueSerde(values);
    }
}
