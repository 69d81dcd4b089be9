-- What wrk has done, as JSON.
function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "bad_status": %d, "errors": %d, "seconds": %f, "p50_us": %d, "p99_us": %d}\n',
      summary.requests,
      errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      summary.duration / 1e6,
      latency:percentile(50),
      latency:percentile(99)))
end
