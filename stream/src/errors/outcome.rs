//! What an aggregation closure may return.

use super::BoxError;

/// Nothing, or a result: a closure that updates an aggregate returns `()` or `Result<(), E>`.
///
/// A closure that returns an error must leave the aggregate as it was: the record is then handled by the error policy,
/// and the row stays as the records before made it.
#[diagnostic::on_unimplemented(message = "expected a closure that returns `()` or `Result<(), E>`, got `{Self}`")]
pub trait Outcome {
    /// The result.
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}
