//! `berth image pulls`: what comes to this node now, whoever asked for it.

use std::time::Duration;

use proto::operator::operator_client::OperatorClient;
use proto::operator::{ListPullsRequest, PullUnderWay};
use tonic::transport::Channel;

use super::Error;
use super::image::short;
use super::measure::size;
use super::say::say;
use super::table::table;

pub(super) async fn pulls(channel: Channel) -> Result<(), Error> {
    let pulls = OperatorClient::new(channel).list_pulls(ListPullsRequest {}).await?.into_inner().pulls;
    let rows: Vec<Vec<String>> = pulls.iter().map(row).collect();
    say(&table(&["NAME", "MANIFEST", "AGE", "LAYERS", "DONE", "OF"], &rows))
}

fn row(pull: &PullUnderWay) -> Vec<String> {
    let done = pull.layers.iter().filter(|layer| layer.finished).count();
    let done_bytes = pull.layers.iter().map(|layer| layer.done_bytes.min(layer.size_bytes)).sum();
    let size_bytes = pull.layers.iter().map(|layer| layer.size_bytes).sum();
    vec![
        pull.name.clone(),
        short(&pull.digest),
        format!("{}s", Duration::from_millis(pull.age_ms).as_secs()),
        format!("{done}/{}", pull.layers.len()),
        size(done_bytes),
        size(size_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use proto::operator::LayerProgress;

    use super::*;

    #[test]
    fn a_pull_is_a_line() {
        let layer = |size_bytes, done_bytes, finished| LayerProgress {
            digest: String::new(),
            size_bytes,
            done_bytes,
            finished,
        };
        let pull = PullUnderWay {
            name: "a.io/b:1".to_owned(),
            digest: "sha256:0123456789abcdef".to_owned(),
            age_ms: 12_900,
            layers: vec![layer(1000, 1000, true), layer(3000, 500, false)],
        };
        let expected =
            ["a.io/b:1", "0123456789ab", "12s", "1/2", &size(1500), &size(4000)].map(ToOwned::to_owned);
        assert_eq!(row(&pull), expected);
    }
}
