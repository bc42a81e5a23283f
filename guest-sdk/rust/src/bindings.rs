//! The raw interfaces, generated from `wit/`: for what the SDK's own types cannot say. Not covered by its promises.

#![allow(missing_docs, unsafe_code, unreachable_pub, clippy::all)]

wit_bindgen::generate!({
    path: "wit",
    world: "shoal:function/http",
    generate_all,
    pub_export_macro: true,
});
