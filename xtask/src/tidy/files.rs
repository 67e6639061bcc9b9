//! Habits of single files: length, first line, unfinished work, `unsafe`, sleeps in tests.

/// More than this no one reads at once.
const MAX_LINES: usize = 600;
/// The librdkafka boundary.
const UNSAFE_ALLOWED: &str = "stream/src/kafka/ffi.rs";
/// Waiting with a deadline needs a pause between two looks.
const SLEEP_ALLOWED: &str = "tests/src/wait.rs";
// In halves, so that this file does not name them.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
];

/// Complaints about one file.
pub(super) fn check(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in numbered(text) {
        if let Some(marker) = UNFINISHED.iter().find(|marker| has_word(line, marker)) {
            complaints
                .push(format!("{name}:{number}: unfinished ({marker}): do it, or say in an issue that it is not done"));
        }
    }
    if !name.ends_with(".rs") {
        return complaints;
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        complaints.push(format!("{name}: {lines} lines, more than {MAX_LINES}: is there a seam?"));
    }
    if !text.starts_with("//! ") {
        complaints.push(format!("{name}:1: the first line says what lives here (//! …)"));
    }
    if name != UNSAFE_ALLOWED {
        let unsafes = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
        for (number, line) in numbered(text).filter(|(_, line)| !is_text(line)) {
            if unsafes.iter().any(|keyword| line.contains(keyword)) {
                complaints.push(format!("{name}:{number}: unsafe code outside {UNSAFE_ALLOWED}"));
            }
        }
    }
    if name != SLEEP_ALLOWED {
        complaints.extend(sleeps(name, text));
    }
    complaints
}

/// Sleeps in test code; virtual time (`start_paused`) may sleep as it likes.
fn sleeps(name: &str, text: &str) -> Vec<String> {
    if text.contains("start_paused") {
        return Vec::new();
    }
    let all_is_test = name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs");
    let test_from = if all_is_test {
        1
    } else {
        numbered(text).find(|(_, line)| line.trim() == "#[cfg(test)]").map_or(usize::MAX, |(number, _)| number)
    };
    numbered(text)
        .filter(|(number, line)| *number >= test_from && line.contains("sleep(") && !is_text(line))
        .map(|(number, _)| format!("{name}:{number}: a sleep in a test: wait for a condition with a deadline"))
        .collect()
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Comments, and lines that look for the words checked here.
fn is_text(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//") || line.contains("\"unsafe") || line.contains("\"sleep")
}

/// Whether a marker stands in a line as a word of its own.
fn has_word(line: &str, marker: &str) -> bool {
    line.match_indices(marker).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + marker.len()..].chars().next();
        let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !in_word(before) && (marker.ends_with('(') || !in_word(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_are_checked() {
        assert_eq!(check("a/src/b.rs", "//! Good.\nfn f() {}\n"), Vec::<String>::new());
        assert_eq!(check("a/src/b.rs", "fn f() {}\n").len(), 1);
        assert_eq!(check("a/src/b.rs", &format!("//! x\n{}", "\n".repeat(MAX_LINES))).len(), 1);
        assert_eq!(check("a/src/b.rs", concat!("//! x\n// TO", "DO: y\n")).len(), 1);
        assert_eq!(check("README.md", "MASTODON, TODOIST\n"), Vec::<String>::new());
        let block = concat!("//! x\nfn f() { un", "safe { g() } }\n");
        assert_eq!(check("a/src/b.rs", block).len(), 1);
        assert_eq!(check(UNSAFE_ALLOWED, block), Vec::<String>::new());
    }

    #[test]
    fn only_tests_may_not_sleep() {
        let production = concat!("//! x\nfn f() { sl", "eep(d); }\n");
        assert_eq!(check("a/src/b.rs", production), Vec::<String>::new());
        assert_eq!(check("tests/src/b.rs", production).len(), 1);
        assert_eq!(check("tests/examples/b.rs", production).len(), 1);
        assert_eq!(check("tests/src/wait.rs", production), Vec::<String>::new());
        assert_eq!(
            check("a/src/b.rs", concat!("//! x\n#[cfg(test)]\nmod tests { fn f() { sl", "eep(d); } }\n")).len(),
            1
        );
    }
}
