//! Panics of user code: caught, with the place where they happened, and without a report of their own on standard error,
//! where a flood of them would drown the log.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic of a closure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// What it said.
    message: String,
    /// Source file, line and column, where known.
    place: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "a closure panicked at {place}: {}", self.message),
            None => write!(f, "a closure panicked: {}", self.message),
        }
    }
}

/// Calls user code; a panic becomes an error. What `call` was changing may be half changed then: the caller drops it.
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Panic> {
    install();
    let outer = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CATCHING.set(outer);
    result.map_err(|panic| Panic { message: text_of(panic.as_ref()), place: PLACE.take() })
}

/// Every other panic goes to whoever was told of panics before.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if CATCHING.get() {
                PLACE.set(panic.location().map(ToString::to_string));
            } else {
                others(panic);
            }
        }));
    });
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
#[expect(clippy::panic, reason = "it is what is tested")]
mod tests {
    use super::*;

    #[test]
    fn says_what_and_where() {
        assert_eq!(catch(|| 5), Ok(5));
        let panic = catch(|| panic!("number {}", 7)).map(|()| 0).unwrap_err();
        assert_eq!(panic.message, "number 7");
        let text = panic.to_string();
        assert!(text.contains(concat!("at ", file!())) && text.ends_with(": number 7"), "{text}");
        let silent = catch(|| std::panic::panic_any(7)).map(|()| 0).unwrap_err();
        assert_eq!(silent.message, "without a message");
    }
}
