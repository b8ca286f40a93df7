//! The finisher's world.

use std::marker::PhantomData;

use crate::bindings::finisher_world::exports::studio::worker::finishing::Guest;
use crate::{Failure, Product, Provenance, RawJob, runtime};

/// Checks and completes what an engine made.
pub trait Finisher: 'static {
    /// Extensions that it works on, each with the largest product in bytes. The same in every call.
    fn accepts() -> Vec<(String, u64)>;

    /// The product as it goes to the studio.
    ///
    /// # Errors
    ///
    /// Why it must not go there.
    fn finish(job: RawJob, product: Product, provenance: Provenance) -> Result<Product, Failure>;
}

/// Answers the host for a [`Finisher`].
#[derive(Debug)]
pub struct FinisherExport<F>(PhantomData<F>);

impl<F: Finisher> Guest for FinisherExport<F> {
    fn accepts() -> Vec<(String, u64)> {
        runtime::start();
        F::accepts()
    }

    fn finish(job: RawJob, product: Product, provenance: Provenance) -> Result<Product, Failure> {
        runtime::start();
        F::finish(job, product, provenance)
    }
}

/// Exports a type that implements [`Finisher`] as a finisher plugin.
#[macro_export]
macro_rules! finisher {
    ($finisher:ty) => {
        $crate::__component!(export_finisher, finisher_world, FinisherExport, $finisher);
    };
}
