//! Java's `SplittableRandom`, so that the same seed gives the peer's records.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator of the sequence that `new SplittableRandom(seed)` has.
#[derive(Clone, Debug)]
pub(crate) struct SplittableRandom {
    state: u64,
}

impl SplittableRandom {
    pub(crate) fn new(seed: i64) -> Self {
        Self { state: seed.cast_unsigned() }
    }

    fn next_state(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        self.state
    }

    /// `nextLong()`, as its 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let mut z = self.next_state();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn next_i32(&mut self) -> i32 {
        let mut z = self.next_state();
        z = (z ^ (z >> 33)).wrapping_mul(0x62a9_d9ed_7997_05f5);
        (((z ^ (z >> 28)).wrapping_mul(0xcb24_d0a5_c88c_35b3)) >> 32) as u32 as i32
    }

    /// `nextInt(bound)` for a bound of at least 1.
    pub(crate) fn below(&mut self, bound: i32) -> i32 {
        let mask = bound - 1;
        let mut drawn = self.next_i32();
        if bound & mask == 0 {
            return drawn & mask;
        }
        // Draws from the last, incomplete multiple of the bound overflow here and are drawn again.
        let mut half = (drawn.cast_unsigned() >> 1).cast_signed();
        loop {
            drawn = half % bound;
            if half.wrapping_add(mask).wrapping_sub(drawn) >= 0 {
                return drawn;
            }
            half = (self.next_i32().cast_unsigned() >> 1).cast_signed();
        }
    }

    /// `nextDouble()`: from 0 to below 1.
    pub(crate) fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What JDK 17 prints for the same calls.
    #[test]
    fn draws_what_java_draws() {
        let mut random = SplittableRandom::new(42);
        let ints: Vec<_> = (0..6).map(|_| random.below(100_000)).collect();
        assert_eq!(ints, [45_031, 97_556, 22_481, 3_172, 86_781, 64_071]);
        let longs: Vec<_> = (0..3).map(|_| random.next_u64().cast_signed()).collect();
        assert_eq!(longs, [4_028_864_712_777_624_925, -3_677_692_746_721_775_708, 6_270_620_877_612_482_005]);
        let doubles: Vec<_> = (0..3).map(|_| random.next_f64()).collect();
        assert_eq!(doubles, [0.618_482_066_356_134_8, 0.204_901_831_798_775_52, 0.492_989_185_794_692_4]);
        let powers: Vec<_> = (0..3).map(|_| random.below(1024)).collect();
        assert_eq!(powers, [582, 141, 736]);
    }
}
