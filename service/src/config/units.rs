//! Texts with units: sizes in bytes, durations in milliseconds.

use std::time::Duration;

const KIB: u64 = 1024;

/// `512MiB`, `2GiB`, `1_000_000`, `64kB`: bytes. Units are B, kB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB, or
/// Kubernetes' Ki, Mi, Gi, Ti.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => KIB,
        "mi" | "mib" => KIB * KIB,
        "gi" | "gib" => KIB * KIB * KIB,
        "ti" | "tib" => KIB * KIB * KIB * KIB,
        _ => return None,
    };
    scaled(&number, factor)
}

/// `250`, `250ms`, `5s`, `10min`, `2h`, `1d`: a duration; a bare number is milliseconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    scaled(&number, factor).map(Duration::from_millis)
}

/// Digits (with `_` between them and at most one point) in front, the unit behind.
fn split(text: &str) -> (String, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.').unwrap_or(text.len());
    (text[..end].replace('_', ""), text[end..].trim_start())
}

fn scaled(number: &str, factor: u64) -> Option<u64> {
    let Some((whole, fraction)) = number.split_once('.') else {
        return number.parse::<u64>().ok()?.checked_mul(factor);
    };
    // "1.5GiB" in whole numbers, so that no float rounds a limit; more digits than a byte count needs are refused.
    if fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let divisor = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u64>().ok()?.checked_mul(factor)? / divisor;
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(part)
}

/// Bytes as people read them: `512 MiB`, exact or with one decimal.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", KIB * KIB * KIB * KIB), ("GiB", KIB * KIB * KIB), ("MiB", KIB * KIB), ("KiB", KIB)];
    for (unit, size) in UNITS {
        if bytes >= size {
            return if bytes.is_multiple_of(size) {
                format!("{}{unit}", bytes / size)
            } else {
                format!("{:.1}{unit}", bytes as f64 / size as f64)
            };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", 0),
            ("512", 512),
            ("1_000", 1_000),
            ("64kB", 64_000),
            ("64KiB", 65_536),
            ("1.5GiB", 1_610_612_736),
            ("2Gi", 2 << 30),
            ("3 MB", 3_000_000),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for wrong in ["", "-1", "1.2.3MiB", "5 apples", "MiB", "1.GiB", "20000000TiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(show_bytes(512 << 20), "512MiB");
        assert_eq!(show_bytes(1_610_612_736), "1.5GiB");
        assert_eq!(show_bytes(7), "7B");
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("250", 250), ("250ms", 250), ("5s", 5_000), ("1.5s", 1_500), ("10min", 600_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "s", "5 years", "-5", "1e3"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
