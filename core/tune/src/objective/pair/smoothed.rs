//! A margin whose label may be wrong: what `cdpo` (and so `cpo`), `aot`, `aot_unpaired` and `simpo` have in common.
//!
//! `L = -(1-e) log sigma(m) - e log sigma(-m)`. `dL/dm = -(1-e) sigma(-m) + e sigma(m)`: zero at `m = log((1-e)/e)`, so that the
//! margin has a target instead of growing for ever.

use crate::objective::math;

/// The loss of a margin, nats, and its slope.
pub(super) fn loss(margin: f64, label_smoothing: f64) -> (f64, f64) {
    let e = label_smoothing;
    (
        -(1.0 - e) * math::log_sigmoid(margin) - e * math::log_sigmoid(-margin),
        e * math::sigmoid(margin) - (1.0 - e) * math::sigmoid(-margin),
    )
}
