-- wrk script: posts the bodies of the folder $BODIES in turn; $CONTENT_TYPE is theirs; one JSON line goes to $OUT.
-- A file `json_length` beside the bodies says how many bytes of JSON each of them begins with.
local requests, turn = {}, 0
function init()
  local folder, headers = os.getenv("BODIES"), { ["Content-Type"] = os.getenv("CONTENT_TYPE") }
  local length = io.open(folder .. "/json_length")
  if length then
    headers["Inference-Header-Content-Length"] = length:read("*l")
    length:close()
  end
  for number = 0, 63 do
    local file = assert(io.open(string.format("%s/%02d", folder, number), "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary, latency)
  local e = summary.errors
  local out = assert(io.open(os.getenv("OUT"), "w"))
  out:write(string.format('{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"errors":%d}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
  out:close()
end
