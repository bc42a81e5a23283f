//! Every key at its bounds and beyond; what else an engine cannot be built from.

use crate::support::sim_with;
use shoal_inference::{AnyDevice, Config, ConfigError, Inference};
use std::time::Duration;

type Change = fn(&mut Config);

const REFUSED: [(Change, &str); 19] = [
    (|c| c.rows_max = 0, "rows_max is 0, expected 1 to 65536"),
    (
        |c| c.rows_max = 65_537,
        "rows_max is 65537, expected 1 to 65536",
    ),
    (
        |c| c.wait_max = Duration::from_millis(10_001),
        "wait_max (ms) is 10001, expected 0 to 10000",
    ),
    (
        |c| c.wait_max = Duration::MAX,
        "wait_max (ms) is 18446744073709551615, expected 0 to 10000",
    ),
    (
        |c| c.requests_max = 0,
        "requests_max is 0, expected 1 to 1048576",
    ),
    (
        |c| c.requests_max = (1 << 20) + 1,
        "requests_max is 1048577, expected 1 to 1048576",
    ),
    (
        |c| c.target_priority = Duration::from_micros(999),
        "target_priority (ms) is 0, expected 1 to 3600000",
    ),
    (
        |c| c.target_default = Duration::from_secs(3_601),
        "target_default (ms) is 3601000, expected 1 to 3600000",
    ),
    (
        |c| c.request_rows_max = 0,
        "request_rows_max is 0, expected 1 to 1048576",
    ),
    (
        |c| c.tenant_requests_max = 0,
        "tenant_requests_max is 0, expected 1 to 1048576",
    ),
    (
        |c| c.tenant_shapes_max = 0,
        "tenant_shapes_max is 0, expected 1 to 65536",
    ),
    (
        |c| c.tenant_shapes_max = 65_537,
        "tenant_shapes_max is 65537, expected 1 to 65536",
    ),
    (|c| c.models_max = 0, "models_max is 0, expected 1 to 4096"),
    (
        |c| c.models_max = 4_097,
        "models_max is 4097, expected 1 to 4096",
    ),
    (
        |c| c.tensor_bytes_max = 0,
        "tensor_bytes_max is 0, expected 1 to 4294967296",
    ),
    (
        |c| c.tensor_bytes_max = (4 << 30) + 1,
        "tensor_bytes_max is 4294967297, expected 1 to 4294967296",
    ),
    (
        |c| c.tenant_rows_max = 63,
        "tenant_rows_max is 63, expected at least rows_max (64)",
    ),
    (
        |c| c.tenant_bytes_max = (64 << 20) - 1,
        "tenant_bytes_max is 67108863, expected at least tensor_bytes_max (67108864)",
    ),
    (
        |c| c.tenant_rows_max = 0,
        "tenant_rows_max is 0, expected at least rows_max (64)",
    ),
];

const ACCEPTED: [Change; 13] = [
    |c| c.tenant_shapes_max = 1,
    |c| c.tenant_shapes_max = 65_536,
    |c| c.rows_max = 1,
    |c| (c.rows_max, c.tenant_rows_max) = (65_536, 65_536),
    |c| c.wait_max = Duration::from_secs(10),
    |c| {
        (c.target_priority, c.target_default) =
            (Duration::from_millis(1), Duration::from_secs(3_600))
    },
    |c| (c.request_rows_max, c.tenant_requests_max) = (1, 1 << 20),
    |c| c.requests_max = 1,
    |c| c.requests_max = 1 << 20,
    |c| c.models_max = 1,
    |c| c.models_max = 4_096,
    |c| c.tensor_bytes_max = 1,
    |c| (c.tensor_bytes_max, c.tenant_bytes_max) = (4 << 30, 4 << 30),
];

#[test]
fn the_default_is_valid() {
    assert_eq!(Config::default().validate(), Ok(()));
}

#[test]
fn a_value_out_of_its_range_is_refused_by_its_key() {
    let with = |change: Change| {
        let mut config = Config::default();
        change(&mut config);
        config.validate().map_err(|error| error.to_string())
    };
    for (change, message) in REFUSED {
        assert_eq!(with(change), Err(message.to_owned()));
    }
    for change in ACCEPTED {
        assert_eq!(with(change), Ok(()));
    }
}

#[test]
fn an_engine_needs_a_device_and_a_valid_configuration() {
    let none = Inference::new::<AnyDevice>(Config::default(), vec![]);
    assert_eq!(none.err(), Some(ConfigError::NoDevice));
    let bad = Config {
        rows_max: 0,
        ..Config::default()
    };
    assert!(Inference::new(bad, vec![sim_with(&[])]).is_err());
}
