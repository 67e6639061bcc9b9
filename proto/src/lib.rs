//! The protocol buffers of Holdfast, their generated code, and the one table of error codes.
