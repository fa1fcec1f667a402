//! From the component's exports to a [`Hooks`] value, and back. [`export!`](crate::export) calls these; so does
//! [`testing`](crate::testing), so that a native test goes through the same typed parameters.

use crate::bindings::wasm_worker::pipeline::types as wire;
use crate::error::Error;
use crate::hooks::Hooks;
use crate::output::{FanOut, Output};
use crate::task::{Setup, Task};

/// `load-pipeline`, for the given service.
pub fn load_pipeline<S: Hooks>(setup: wire::Setup) -> Result<S, Error> {
    S::load_pipeline(Setup::from_wire(setup)?)
}

/// `process`, for what `load-pipeline` left.
pub fn process<S: Hooks>(service: Option<&mut S>, task: wire::Task) -> Result<Output, Error> {
    loaded(service)?.process(&Task::from_wire(task)?)
}

/// `publish-next`, for what `load-pipeline` left.
pub fn publish_next<S: Hooks>(service: Option<&mut S>, task: wire::Task, output: wire::Output) -> Result<FanOut, Error> {
    loaded(service)?.publish_next(&Task::from_wire(task)?, &output.into())
}

/// `describe`; an empty object where a schema has no JSON form, which schemars does not make.
pub fn describe<S: Hooks>() -> String {
    serde_json::to_string(&S::describe()).unwrap_or_else(|_| "{}".to_owned())
}

fn loaded<S>(service: Option<&mut S>) -> Result<&mut S, Error> {
    service.ok_or_else(|| Error::fatal("not-loaded", "the host called a task hook before load-pipeline succeeded"))
}

/// Makes a component of a [`Hooks`] service: `wasm_worker_guest::export!(MyService);`, once per crate, whose `crate-type` is `cdylib`.
///
/// Outside WebAssembly it exports nothing, so the crate still builds and tests natively.
#[macro_export]
macro_rules! export {
    ($service:ty) => {
        const _: () = {
            use $crate::__private as sdk;

            ::std::thread_local! {
                /// The instance's state. A component has one thread, so this is the instance's only one.
                static SERVICE: ::std::cell::RefCell<::std::option::Option<$service>> = const { ::std::cell::RefCell::new(None) };
            }

            struct Component;

            impl sdk::HooksExport for Component {
                fn load_pipeline(setup: sdk::wire::Setup) -> ::std::result::Result<(), sdk::wire::Error> {
                    let service = sdk::load_pipeline::<$service>(setup)?;
                    SERVICE.set(Some(service));
                    Ok(())
                }

                fn process(task: sdk::wire::Task) -> ::std::result::Result<sdk::wire::Output, sdk::wire::Error> {
                    SERVICE.with_borrow_mut(|service| Ok(sdk::process(service.as_mut(), task)?.into()))
                }

                fn publish_next(
                    task: sdk::wire::Task,
                    output: sdk::wire::Output,
                ) -> ::std::result::Result<sdk::wire::FanOut, sdk::wire::Error> {
                    SERVICE.with_borrow_mut(|service| Ok(sdk::publish_next(service.as_mut(), task, output)?.into()))
                }
            }

            impl sdk::DiscoveryExport for Component {
                fn describe() -> ::std::string::String {
                    sdk::describe::<$service>()
                }
            }

            // What exports nothing would count as unused.
            #[cfg(not(target_family = "wasm"))]
            const _: fn(sdk::wire::Setup) -> ::std::result::Result<(), sdk::wire::Error> = <Component as sdk::HooksExport>::load_pipeline;

            #[cfg(target_family = "wasm")]
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}
