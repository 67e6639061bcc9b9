//! The messages and the two aggregates, with the arithmetic that they allow.

use std::{collections::BTreeMap, fmt};

use holdfast_stream::codec::{Codec, CodecError, HasCodec, Json, Utf8};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};

/// One movement of stock: the value of topic `items`, whose key is the store's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemTransaction {
    /// Number of the transaction.
    #[serde(default)]
    pub id: i64,
    /// Store where it happened; empty when the message has none.
    #[serde(default, deserialize_with = "null_as_default")]
    pub store_name: String,
    /// What was moved; empty when the message has none.
    #[serde(default, deserialize_with = "null_as_default")]
    pub sku: String,
    /// How many pieces.
    pub quantity: i32,
    /// Which way.
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    pub kind: TransactionType,
    /// Price of a piece; may be null.
    #[serde(default)]
    pub price: Option<f64>,
    /// Local date and time without a zone, kept as the text that came.
    #[serde(default)]
    pub timestamp: Option<String>,
}

impl HasCodec for ItemTransaction {
    type Codec = Json<Self>;
}

/// The key of a transaction: text, where a missing one reads as empty, so that the domain refuses it with a reason instead
/// of the source skipping it.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreKey;

impl Codec for StoreKey {
    type Value = String;

    fn name(&self) -> String {
        Utf8.name()
    }
    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Utf8.encode(value, out)
    }
    fn decode(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Utf8.decode(bytes)
    }
    fn decode_into(&self, bytes: &[u8], slot: &mut Option<String>) -> Result<(), CodecError> {
        Utf8.decode_into(bytes, slot)
    }
    fn null(&self) -> Option<String> {
        Some(String::new())
    }
    fn parse_text(&self, text: &str) -> Result<Vec<u8>, CodecError> {
        Utf8.parse_text(text)
    }
    fn to_text(&self, bytes: &[u8]) -> Result<String, CodecError> {
        Utf8.to_text(bytes)
    }
    fn write_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        Utf8.write_json(bytes, out)
    }
}

/// Which way a movement goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum TransactionType {
    /// Takes from the stock.
    Sale,
    /// Adds to the stock.
    Restock,
    /// Anything else: read, so that the refusal can name it, and never counted.
    Unknown(String),
}

impl Default for TransactionType {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl From<&str> for TransactionType {
    fn from(text: &str) -> Self {
        match text {
            "SALE" => Self::Sale,
            "RESTOCK" => Self::Restock,
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

// From the text where it stands: by way of a `String`, each record would cost an allocation.
impl<'de> Deserialize<'de> for TransactionType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = TransactionType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TransactionType, E> {
                Ok(text.into())
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl From<TransactionType> for String {
    fn from(kind: TransactionType) -> Self {
        match kind {
            TransactionType::Sale => "SALE".to_owned(),
            TransactionType::Restock => "RESTOCK".to_owned(),
            TransactionType::Unknown(text) => text,
        }
    }
}

/// Why a transaction is refused. It goes to the dead-letter topic and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// No store is named.
    #[error("expected a storeName, got none or an empty one")]
    NoStoreName,
    /// No sku is named.
    #[error("expected a sku, got none or an empty one")]
    NoSku,
    /// The record's key is another store than its value.
    #[error("expected the key to be the storeName {store_name:?}, got {key:?}: the row would belong to another store")]
    KeyMismatch {
        /// The record's key.
        key: String,
        /// The value's store.
        store_name: String,
    },
    /// Neither a sale nor a restock.
    #[error("expected type SALE or RESTOCK, got {0:?}")]
    UnknownType(String),
    /// The stock would not fit into 64 bits.
    #[error("the stock of {sku} would leave the range of 64 bits: {stock} and {change}")]
    Overflow {
        /// The sku.
        sku: String,
        /// Its stock before.
        stock: i64,
        /// What was to be added.
        change: i64,
    },
}

impl ItemTransaction {
    /// What this movement adds to the stock: a sale takes away, a restock adds.
    pub fn change(&self) -> Result<i64, InventoryError> {
        match &self.kind {
            TransactionType::Sale => Ok(-i64::from(self.quantity)),
            TransactionType::Restock => Ok(i64::from(self.quantity)),
            TransactionType::Unknown(text) => Err(InventoryError::UnknownType(text.clone())),
        }
    }

    /// Whether it can be counted, before anything counts it: a refused transaction changes neither table.
    pub fn check(&self, key: &str) -> Result<(), InventoryError> {
        if self.store_name.is_empty() {
            return Err(InventoryError::NoStoreName);
        }
        if self.sku.is_empty() {
            return Err(InventoryError::NoSku);
        }
        if key != self.store_name {
            return Err(InventoryError::KeyMismatch { key: key.to_owned(), store_name: self.store_name.clone() });
        }
        self.change().map(|_| ())
    }
}

/// The stock of one store: a row of `StoreInventoryStock`, and the value of topic `store.inventory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreInventory {
    /// Pieces per sku; below zero when more was sold than restocked.
    pub stock: BTreeMap<String, i64>,
    /// The store's name, which is the row's key.
    pub store_name: String,
}

impl HasCodec for StoreInventory {
    type Codec = Json<Self>;
}

impl StoreInventory {
    /// A store that nothing is known of.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one movement. An error leaves the row as it was.
    pub fn apply(&mut self, store_name: &impl AsRef<str>, item: &ItemTransaction) -> Result<(), InventoryError> {
        let change = item.change()?;
        match self.stock.get_mut(&item.sku) {
            Some(stock) => *stock = add(&item.sku, *stock, change)?,
            None => {
                self.stock.insert(item.sku.clone(), change);
            }
        }
        if self.store_name.is_empty() {
            store_name.as_ref().clone_into(&mut self.store_name);
        }
        Ok(())
    }
}

/// The stock of one sku over all stores: a row of `ItemStock`, and the value of topic `item.inventory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemStock {
    /// The sku, which is the row's key.
    #[serde(rename = "itemID")]
    pub item_id: String,
    /// Pieces in all stores; below zero when more was sold than restocked.
    #[serde(rename = "currentStock")]
    pub current_stock: i64,
}

impl HasCodec for ItemStock {
    type Codec = Json<Self>;
}

impl ItemStock {
    /// A sku that nothing is known of.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one movement. An error leaves the row as it was.
    pub fn apply(&mut self, sku: &impl AsRef<str>, item: &ItemTransaction) -> Result<(), InventoryError> {
        let sku = sku.as_ref();
        self.current_stock = add(sku, self.current_stock, item.change()?)?;
        if self.item_id.is_empty() {
            sku.clone_into(&mut self.item_id);
        }
        Ok(())
    }
}

fn add(sku: &str, stock: i64, change: i64) -> Result<i64, InventoryError> {
    stock.checked_add(change).ok_or_else(|| InventoryError::Overflow { sku: sku.to_owned(), stock, change })
}

/// Java writes a missing text as null.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> ItemTransaction {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_labs_sample_reads() {
        let item = parse(
            r#"{"id":5,"price":44.12,"quantity":4,"sku":"Item_4","storeName":"Store_5","timestamp":"2020-10-13T16:15:30.790437","type":"SALE"}"#,
        );
        assert_eq!(item.price, Some(44.12));
        assert_eq!(item.timestamp.as_deref(), Some("2020-10-13T16:15:30.790437"));
        assert_eq!(item.change(), Ok(-4));
        assert_eq!(item.check("Store_5"), Ok(()));
    }

    #[test]
    fn what_the_domain_refuses() {
        let whole = r#"{"id":1,"storeName":"S","sku":"I","quantity":1,"type":"RESTOCK","price":null}"#;
        assert_eq!(parse(whole).check("S"), Ok(()));
        for (from, to, expected) in [
            (r#""storeName":"S""#, r#""storeName":"""#, InventoryError::NoStoreName),
            (r#""storeName":"S","#, "", InventoryError::NoStoreName),
            (r#""storeName":"S""#, r#""storeName":null"#, InventoryError::NoStoreName),
            (r#""sku":"I""#, r#""sku":"""#, InventoryError::NoSku),
            (r#""sku":"I","#, "", InventoryError::NoSku),
            (r#""RESTOCK""#, r#""GIFT""#, InventoryError::UnknownType("GIFT".to_owned())),
            (r#""RESTOCK""#, "null", InventoryError::UnknownType(String::new())),
            (r#""RESTOCK""#, r#""sale""#, InventoryError::UnknownType("sale".to_owned())),
        ] {
            assert_eq!(parse(&whole.replace(from, to)).check("S"), Err(expected), "{from} -> {to}");
        }
        let mismatch = InventoryError::KeyMismatch { key: "T".to_owned(), store_name: "S".to_owned() };
        assert_eq!(parse(whole).check("T"), Err(mismatch));
        assert!(serde_json::from_str::<ItemTransaction>(&whole.replace(":1,", ":3000000000,")).is_err());
    }

    #[test]
    fn an_overflow_changes_nothing() {
        let restock = parse(r#"{"storeName":"S","sku":"I","quantity":1,"type":"RESTOCK"}"#);
        let mut item = ItemStock { item_id: "I".to_owned(), current_stock: i64::MAX };
        let overflow = InventoryError::Overflow { sku: "I".to_owned(), stock: i64::MAX, change: 1 };
        assert_eq!(item.apply(&"I", &restock), Err(overflow.clone()));
        assert_eq!(item.current_stock, i64::MAX);
        let mut store = StoreInventory::new();
        store.stock.insert("I".to_owned(), i64::MAX);
        let before = store.clone();
        assert_eq!(store.apply(&"S", &restock), Err(overflow));
        assert_eq!(store, before);
    }

    #[test]
    fn rows_are_written_as_the_lab_writes_them() {
        let mut store = StoreInventory::new();
        let sale = parse(r#"{"storeName":"Store_2","sku":"Item_6","quantity":1,"type":"SALE"}"#);
        store.apply(&"Store_2", &sale).unwrap();
        assert_eq!(serde_json::to_string(&store).unwrap(), r#"{"stock":{"Item_6":-1},"storeName":"Store_2"}"#);
        let mut item = ItemStock::new();
        item.apply(&"Item_6", &sale).unwrap();
        assert_eq!(serde_json::to_string(&item).unwrap(), r#"{"itemID":"Item_6","currentStock":-1}"#);
    }
}
