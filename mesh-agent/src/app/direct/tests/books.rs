//! What is counted of direct flows, each byte once.

use super::*;

#[test]
fn bytes_of_a_living_flow_are_counted_as_they_move_and_each_once() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 0, 100, 10]);
    bench.table.live(ends(), flow(15, 100));
    bench.look_at(4);
    assert_eq!(bench.counted(), [1, 0, 100, 15]);
    bench.table.end(ends(), closed(flow(20, 200), 4));
    bench.look_at(5);
    assert_eq!(bench.counted(), [1, 1, 200, 20]);
    bench.look_at(6);
    assert_eq!(bench.counted(), [1, 1, 200, 20]);
}

#[test]
fn spliced_bytes_count_like_all_others() {
    let mut bench = Bench::new();
    let mut spliced = flow(10, 100);
    spliced.client.spliced = 1;
    spliced.server.spliced = 2;
    bench.table.live(ends(), spliced);
    bench.look_at(2);
    assert_eq!(bench.counted(), [1, 0, 102, 11]);
}

#[test]
fn a_flow_that_was_never_seen_alive_is_counted_whole() {
    let mut bench = Bench::new();
    bench.table.end(ends(), closed(flow(1, 2), 2));
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 1, 2, 1]);
    assert_eq!(bench.table.counted(&ends()).unwrap(), None);
    let text = bench.telemetry.encode();
    assert!(
        text.contains("connection_security_policy=\"in_process\""),
        "{text}"
    );
    assert!(text.contains("destination_service_name=\"store\""), "{text}");
    assert!(
        text.contains("mesh_connections_path_total{path=\"direct\"} 1\n"),
        "{text}"
    );
    assert!(text.contains("mesh_direct_retransmits_total 2\n"), "{text}");
    assert!(
        text.contains("mesh_direct_round_trip_seconds_count 1\n"),
        "{text}"
    );
}

#[test]
fn a_restarted_agent_counts_only_what_moved_since() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    bench.restart();
    bench.table.live(ends(), flow(11, 103));
    bench.look_at(3);
    assert_eq!(bench.counted(), [0, 0, 3, 1]);
    bench.restart();
    bench.table.end(ends(), closed(flow(11, 104), 3));
    bench.look_at(4);
    assert_eq!(bench.counted(), [0, 1, 1, 0]);
}

#[test]
fn a_later_flow_of_the_same_ends_is_another_one() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    let mut later = flow(1, 1);
    later.started_ns = 2 * SECOND;
    bench.table.live(ends(), later);
    bench.look_at(3);
    assert_eq!(bench.counted(), [2, 1, 101, 11]);
}

#[test]
fn a_flow_whose_report_was_lost_is_closed_with_what_was_known() {
    let mut bench = Bench::new();
    bench.table.live(ends(), flow(10, 100));
    bench.look_at(2);
    assert!(bench.table.forget(&ends()).unwrap());
    for now_s in 3..=8 {
        bench.look_at(now_s);
    }
    assert_eq!(bench.counted(), [1, 1, 100, 10]);
    assert_eq!(bench.table.counted(&ends()).unwrap(), None);
}

#[test]
fn a_flow_that_both_ends_left_to_the_other_to_report_is_found() {
    let mut bench = Bench::new();
    bench.table.live(ends(), closed(flow(1, 2), 2));
    bench.look_at(3);
    assert_eq!(bench.counted(), [1, 0, 2, 1]);
    bench.look_at(5);
    assert_eq!(bench.counted(), [1, 1, 2, 1]);
}

#[test]
fn a_server_that_does_not_close_is_waited_for_ten_seconds() {
    let mut bench = Bench::new();
    let mut half = closed(flow(1, 2), 2);
    half.server.closed = 0;
    bench.table.live(ends(), half);
    bench.look_at(12);
    assert_eq!(bench.counted()[1], 0);
    bench.look_at(13);
    assert_eq!(bench.counted()[1], 1);
}

#[test]
fn a_refused_connection_is_one_that_failed() {
    let mut bench = Bench::new();
    let mut refused = closed(flow(0, 0), 1);
    refused.established = 0;
    refused.server_netns = 0;
    refused.client.srtt_us = 0;
    bench.table.end(ends(), refused);
    bench.look_at(2);
    let text = bench.telemetry.encode();
    assert!(text.contains("response_flags=\"UF\""), "{text}");
    assert!(
        text.contains("destination_workload=\"unknown\"") || text.contains("store"),
        "{text}"
    );
    assert!(
        text.contains("mesh_direct_round_trip_seconds_count 0\n"),
        "{text}"
    );
}
