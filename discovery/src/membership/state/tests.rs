//! The state machine, event by event.
