//! How many further calls to peers requests may cost: a share of the calls, and a reserve. When whole instances do not answer,
//! calls to the rest must not multiply.

use parking_lot::Mutex;

/// What each first call adds: one further call in five.
const SHARE: f64 = 0.2;
/// Further calls that are always there after a quiet time.
const RESERVE: f64 = 500.0;

/// The budget of an instance.
#[derive(Debug)]
pub(super) struct RetryBudget {
    tokens: Mutex<f64>,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        Self { tokens: Mutex::new(RESERVE) }
    }

    /// A request makes its first call.
    pub(super) fn deposit(&self) {
        let mut tokens = self.tokens.lock();
        *tokens = (*tokens + SHARE).min(RESERVE);
    }

    /// A request wants a further call; whether it may.
    pub(super) fn withdraw(&self) -> bool {
        let mut tokens = self.tokens.lock();
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_and_then_one_in_five() {
        let budget = RetryBudget::new();
        assert_eq!((0..2_000).filter(|_| budget.withdraw()).count(), 500);
        let mut allowed = 0;
        for _ in 0..1_000 {
            budget.deposit();
            allowed += usize::from(budget.withdraw());
        }
        assert!((195..=200).contains(&allowed), "{allowed}");
    }
}
