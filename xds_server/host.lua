-- Host names are compared without regard to case, and scopes of routes are not: `Shop` is asked for as `shop`. The edit
-- makes Envoy choose the scope anew.

function envoy_on_request(handle)
  local headers = handle:headers()
  local host = headers:get(":authority")
  if host then
    local lower = string.lower(host)
    if lower ~= host then headers:replace(":authority", lower) end
  end
end
