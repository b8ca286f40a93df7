//! What `wit-bindgen` makes of `wit/`: one module per world, the shared types made once.
//!
//! Nothing here is written by hand. Plugin crates use the names that the crate root exports;
//! this module is public because the export macros have to reach it from other crates.

/// The engine's world, and with it the types that all three worlds share.
pub mod engine_world {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "engine-plugin",
        generate_all,
        generate_unused_types: true,
        pub_export_macro: true,
        export_macro_name: "export_engine",
        default_bindings_module: "studio_plugin::bindings::engine_world",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

/// The router's world.
pub mod router_world {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "router-plugin",
        pub_export_macro: true,
        export_macro_name: "export_router",
        default_bindings_module: "studio_plugin::bindings::router_world",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "studio:worker/types@1.0.0": crate::bindings::engine_world::studio::worker::types,
            "studio:worker/log@1.0.0": crate::bindings::engine_world::studio::worker::log,
        },
    });
}

/// The finisher's world.
pub mod finisher_world {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "finisher-plugin",
        pub_export_macro: true,
        export_macro_name: "export_finisher",
        default_bindings_module: "studio_plugin::bindings::finisher_world",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "studio:worker/types@1.0.0": crate::bindings::engine_world::studio::worker::types,
            "studio:worker/log@1.0.0": crate::bindings::engine_world::studio::worker::log,
        },
    });
}
