//! Codecs round-trip, write Java's bytes, and refuse what is not theirs.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

fn encoded<C: Codec>(codec: &C, value: &C::Value) -> Vec<u8> {
    let mut out = b"kept".to_vec();
    codec.encode(value, &mut out).unwrap();
    assert_eq!(&out[..4], b"kept", "encode appends");
    out.split_off(4)
}

fn json<C: Codec>(codec: &C, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    codec.write_json(bytes, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    sku: String,
    price: Option<f64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reading {
    #[prost(string, tag = "1")]
    sensor: String,
    #[prost(int64, tag = "2")]
    value: i64,
}

#[test]
fn bytes_are_javas() {
    assert_eq!(encoded(&I64, &1), [0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(encoded(&I64, &-2), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]);
    assert_eq!(encoded(&I32, &258), [0, 0, 1, 2]);
    assert_eq!(encoded(&Utf8, &"é".to_owned()), [0xc3, 0xa9]);
}

#[test]
fn changes_are_kafka_streams() {
    let codec = ChangeCodec(String::codec());
    let text = |text: &str| Some(text.to_owned());
    for (change, bytes) in [
        (Change { new: text("n"), old: None }, b"n\x01".to_vec()),
        (Change { new: None, old: text("o") }, b"o\x00".to_vec()),
        (Change { new: text("new"), old: text("old") }, b"\x06newold\x02".to_vec()),
        (Change { new: text(""), old: text("") }, b"\x00\x02".to_vec()),
    ] {
        assert_eq!(encoded(&codec, &change), bytes);
        assert_eq!(codec.decode(&bytes).unwrap(), change);
    }
    for torn in [&b""[..], b"x\x03", b"\x08new\x02", b"\x01a\x02", b"\xff\xff\xff\xff\xff\xff\x02"] {
        assert!(codec.decode(torn).is_err(), "{torn:?}");
    }
}

#[test]
fn text_names_a_key() {
    assert_eq!(I64.parse_text("-7").unwrap(), (-7_i64).to_be_bytes());
    assert_eq!(I64.to_text(&(-7_i64).to_be_bytes()).unwrap(), "-7");
    assert!(I64.parse_text("seven").unwrap_err().to_string().contains("\"seven\""));
    assert_eq!(ByteArray.parse_text("_w").unwrap(), [0xff]);
    assert_eq!(ByteArray.to_text(&[0xff]).unwrap(), "_w");
    assert_eq!(Json::<Vec<i32>>::default().parse_text("[ 1,\n2 ]").unwrap(), b"[1,2]");
    let message = encoded(&Protobuf::<Reading>::default(), &Reading { sensor: "s".into(), value: 3 });
    let text = Protobuf::<Reading>::default().to_text(&message).unwrap();
    assert_eq!(Protobuf::<Reading>::default().parse_text(&text).unwrap(), message);
}

#[test]
fn json_forms() {
    assert_eq!(json(&Utf8, "a\"b".as_bytes()), r#""a\"b""#);
    assert_eq!(json(&I64, &5_i64.to_be_bytes()), "5");
    assert_eq!(json(&ByteArray, &[0xff]), r#""_w""#);
    // Copied through, spacing and all.
    assert_eq!(json(&Json::<Item>::default(), br#"{ "sku":"x" }"#), r#"{ "sku":"x" }"#);
    let format = key_format(&i64::codec());
    assert_eq!(format.to_json(&5_i64.to_be_bytes()).unwrap(), serde_json::json!(5));
}

#[test]
fn nulls_are_none_only_where_asked() {
    assert_eq!(Utf8.null(), None);
    assert_eq!(Nullable(Utf8).null(), Some(None));
    assert!(Nullable(Utf8).is_null(&None));
    assert_eq!(Nullable(Utf8).decode(b"x").unwrap(), Some("x".to_owned()));
    assert!(Nullable(Utf8).encode(&None, &mut Vec::new()).is_err());
}

#[test]
fn errors_say_what_came() {
    assert_eq!(I64.decode(&[1, 2]).unwrap_err().to_string(), "expected 8 bytes of a big-endian i64, got 2 bytes");
    assert!(Utf8.decode(&[0xff]).unwrap_err().to_string().starts_with("expected UTF-8 text"));
    assert!(Json::<Item>::default().decode(b"{}").unwrap_err().to_string().contains("Item"));
}

proptest! {
    #[test]
    fn every_codec_round_trips(text: String, number: i64, small: i32, bytes: Vec<u8>, other: String) {
        prop_assert_eq!(Utf8.decode(&encoded(&Utf8, &text)).unwrap(), text.clone());
        prop_assert_eq!(I64.decode(&encoded(&I64, &number)).unwrap(), number);
        prop_assert_eq!(I32.decode(&encoded(&I32, &small)).unwrap(), small);
        prop_assert_eq!(ByteArray.decode(&encoded(&ByteArray, &bytes)).unwrap(), bytes.clone());
        let item = Item { sku: text.clone(), price: Some(f64::from(small)) };
        let codec = Json::<Item>::default();
        prop_assert_eq!(codec.decode(&encoded(&codec, &item)).unwrap(), item);
        let reading = Reading { sensor: text.clone(), value: number };
        let codec = Protobuf::<Reading>::default();
        prop_assert_eq!(codec.decode(&encoded(&codec, &reading)).unwrap(), reading);
        let codec = ChangeCodec(String::codec());
        let change = Change { new: Some(text.clone()), old: Some(other.clone()) };
        prop_assert_eq!(codec.decode(&encoded(&codec, &change)).unwrap(), change);

        let mut slot = Some(other);
        Utf8.decode_into(text.as_bytes(), &mut slot).unwrap();
        prop_assert_eq!(slot.unwrap(), text);
    }

    #[test]
    fn text_forms_round_trip(text: String, number: i64, bytes: Vec<u8>) {
        prop_assert_eq!(Utf8.to_text(&Utf8.parse_text(&text).unwrap()).unwrap(), text);
        prop_assert_eq!(I64.parse_text(&number.to_string()).unwrap(), encoded(&I64, &number));
        prop_assert_eq!(ByteArray.parse_text(&ByteArray.to_text(&bytes).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn wild_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Utf8.decode(&bytes);
        let _ = I64.decode(&bytes);
        let _ = Json::<Item>::default().decode(&bytes);
        let _ = Protobuf::<Reading>::default().decode(&bytes);
        let _ = ChangeCodec(String::codec()).decode(&bytes);
    }
}
