//! splitmix64 (Steele, Lea and Flood 2014): pseudo-random 64-bit numbers from a counter, the same on every
//! machine.

/// The increment of the counter: 2^64 divided by the golden ratio.
pub(crate) const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The next 64 bits; advances the state.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(STEP);
    mixed(*state)
}

/// The output bits for one state of the counter.
pub(crate) fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A sequence of random numbers for simulations.
#[cfg(test)]
pub(crate) struct SimulatedDraws(pub(crate) u64);

#[cfg(test)]
impl SimulatedDraws {
    pub(crate) fn bits(&mut self) -> u64 {
        next(&mut self.0)
    }

    /// A uniform number in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (crate::binomial::real(self.bits() >> 11) + 0.5) * 2.0_f64.powi(-53)
    }

    /// A uniform number in [0, 1) with 24 bits.
    pub(crate) fn uniform_f32(&mut self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "24 bits")]
        let unit = (self.bits() >> 40) as f32;
        unit / 16_777_216.0
    }

    /// A normal number (Box and Muller 1958).
    pub(crate) fn normal(&mut self, (mean, deviation): (f64, f64)) -> f64 {
        let (radius, angle) = (
            (-2.0 * self.uniform().ln()).sqrt(),
            std::f64::consts::TAU * self.uniform(),
        );
        mean + deviation * radius * angle.cos()
    }
}
