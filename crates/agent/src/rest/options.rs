//! What the server is started with.

use surus_api::Client;
use surus_config::RestApi;

use super::limits::Limits;

#[derive(Clone, Debug)]
pub struct RestOptions {
    /// The `restapi` section.
    pub api: RestApi,
    /// For questions to other members on behalf of a client.
    pub peers: Client,
    pub limits: Limits,
}

impl RestOptions {
    pub fn new(api: RestApi, peers: Client) -> RestOptions {
        RestOptions { api, peers, limits: Limits::default() }
    }
}
