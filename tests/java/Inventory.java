import com.fasterxml.jackson.annotation.JsonPropertyOrder;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.LogAndContinueExceptionHandler;
import org.apache.kafka.streams.errors.LogAndContinueProcessingExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;

/** The service's own domain: stock by store and by item, out of item transactions. */
final class Inventory {
    private Inventory() {}

    enum Type { SALE, RESTOCK }

    record Item(long id, String storeName, String sku, int quantity, Type type, Double price, String timestamp) {
        long change() {
            return type == Type.SALE ? -(long) quantity : quantity;
        }
    }

    /** In another order than the service writes it: fields have names, not places. */
    @JsonPropertyOrder({"storeName", "stock"})
    record StoreStock(String storeName, Map<String, Long> stock) {
        StoreStock add(String store, Item item) {
            Map<String, Long> changed = stock == null ? new HashMap<>() : stock;
            changed.merge(item.sku(), item.change(), Long::sum);
            return new StoreStock(store, changed);
        }
    }

    @JsonPropertyOrder({"currentStock", "itemID"})
    record ItemStock(String itemID, long currentStock) {
        ItemStock add(String sku, Item item) {
            return new ItemStock(sku, currentStock + item.change());
        }
    }

    static Topology topology(StreamsBuilder builder, Map<String, String> arguments) {
        String topic = arguments.remove("items_topic");
        String storeOutput = arguments.remove("store_output_topic");
        String itemOutput = arguments.remove("item_output_topic");
        // What is refused goes where the service sends it (KIP-1034).
        arguments.put(StreamsConfig.ERRORS_DEAD_LETTER_QUEUE_TOPIC_NAME_CONFIG, topic + ".dlq");
        arguments.put(
            StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueExceptionHandler.class.getName());
        arguments.put(
            StreamsConfig.PROCESSING_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueProcessingExceptionHandler.class.getName());

        Serde<Item> items = Json.serde(Item.class);
        KStream<String, Item> input =
            builder.stream(topic, Consumed.with(Serdes.String(), items)).filter(Inventory::check);
        Serde<StoreStock> stores = Json.serde(StoreStock.class);
        input.groupByKey(Grouped.with(Serdes.String(), items))
            .aggregate(
                () -> new StoreStock(null, new HashMap<>()),
                (store, item, stock) -> stock.add(store, item),
                table("StoreInventoryStock", stores))
            .toStream()
            .to(storeOutput, Produced.with(Serdes.String(), stores));
        Serde<ItemStock> stocks = Json.serde(ItemStock.class);
        input.groupBy((store, item) -> item.sku(), Grouped.with(Serdes.String(), items))
            .aggregate(() -> new ItemStock(null, 0), (sku, item, stock) -> stock.add(sku, item), table("ItemStock", stocks))
            .toStream()
            .to(itemOutput, Produced.with(Serdes.String(), stocks));
        return builder.build();
    }

    private static boolean check(String store, Item item) {
        boolean named = item.storeName() != null && !item.storeName().isEmpty() && item.sku() != null && !item.sku().isEmpty();
        if (!named || item.type() == null || !item.storeName().equals(store)) {
            throw new IllegalArgumentException("refused: " + item);
        }
        return true;
    }

    private static <V> Materialized<String, V, KeyValueStore<Bytes, byte[]>> table(String name, Serde<V> values) {
        return Materialized.<String, V, KeyValueStore<Bytes, byte[]>>as(name)
            .withKeySerde(Serdes.String())
            .withValueSerde(values);
    }
}
