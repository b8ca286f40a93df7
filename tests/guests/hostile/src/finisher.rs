//! The finisher's exports: every text as it is.

use studio_plugin::bindings::finisher_world::exports::studio::worker::finishing::Guest;
use studio_plugin::{Failure, Product, Provenance, RawJob};

use crate::misbehave::{as_built, asked, now};

#[derive(Debug)]
struct Hostile;

impl Guest for Hostile {
    fn accepts() -> Vec<(String, u64)> {
        vec![(as_built(cfg!(feature = "in-accepts"), "txt"), 1 << 20)]
    }

    fn finish(job: RawJob, product: Product, _: Provenance) -> Result<Product, Failure> {
        let spoilt = now(asked(&job.task, "finish"), "");
        Ok(match product {
            Product::Media((_, ext)) if !spoilt.is_empty() => {
                Product::Media((spoilt.into_bytes(), ext))
            }
            as_it_is => as_it_is,
        })
    }
}

#[cfg(target_arch = "wasm32")]
studio_plugin::bindings::finisher_world::export_finisher!(
    Hostile with_types_in studio_plugin::bindings::finisher_world
);

#[cfg(not(target_arch = "wasm32"))]
const _: fn() -> Vec<(String, u64)> = <Hostile as Guest>::accepts;
