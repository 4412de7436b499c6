//! Requests and responses.

mod request;
mod body;
mod response;
mod into_response;
mod run;

pub use body::BodyWriter;
pub(crate) use body::write_all;
pub use into_response::IntoResponse;
pub use request::Request;
pub(crate) use request::receive_trailers;
pub use response::Response;
pub use run::run;
