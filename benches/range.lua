-- wrk's script: GETs of random aligned ranges of one blob, over connections kept open.
--
-- BLOB_SIZE and RANGE_SIZE in bytes (RANGE_SIZE 0: the whole blob), SEED. The requests are made before the
-- run, so that one costs a table look-up in it.

local blob_size = tonumber(os.getenv("BLOB_SIZE"))
local range_size = tonumber(os.getenv("RANGE_SIZE"))
local requests, next_request = {}, 0

function init()
  math.randomseed(tonumber(os.getenv("SEED")))
  if range_size == 0 then
    requests[1] = wrk.format("GET")
    return
  end
  for i = 1, 8192 do
    local first = math.random(0, math.floor(blob_size / range_size) - 1) * range_size
    requests[i] = wrk.format("GET", nil, { Range = string.format("bytes=%d-%d", first, first + range_size - 1) })
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

-- RESULT requests microseconds bytes errors p50_us p99_us
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %.0f %.0f\n", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
