//! Which kernels may run: wide ones where the CPU has them, unless they are masked.

use core::sync::atomic::{AtomicBool, Ordering};

static MASKED: AtomicBool = AtomicBool::new(false);

/// Masks the CPU's features, as if it had only those that every CPU has. Results do not change, by law: a test folds
/// one log with and without.
pub fn mask(masked: bool) {
    MASKED.store(masked, Ordering::Relaxed);
}

/// Whether kernels compiled for AVX2 may run.
#[inline]
#[must_use]
pub fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !MASKED.load(Ordering::Relaxed) && std::arch::is_x86_feature_detected!("avx2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
