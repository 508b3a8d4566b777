-- Holds people in the segment in which their session began, whatever changes of them meanwhile.
--
-- Runs after identity.lua, for services that have more than one segment to be held in. What it needs comes with each
-- virtual host as the filter's context, `hold`:
--   cookie, attributes: its name, and what follows its value;  pattern: finds the value in a Cookie header
--   hold, renew, longest: seconds. How long a cookie holds, after which it is set anew, and how long a session is held;
--   secret: 16 bytes, in hex;  tags: what stands in the cookie for each segment that holds.
--
-- The cookie says BEGAN.WRITTEN.TAG.MAC. The MAC is SipHash-2-4, keyed by the secret, of what is before it and of the
-- person's key: nobody can make one, take over another one's, or choose a segment by it. Tags tell nobody the segment.
-- Routes honour x-serinus-held before anything else. It is set here and nowhere else; whatever comes in is dropped.
--
-- Behind the first hop that splits nobody is held: a cookie that is set there goes to an application, not to a person.
--
-- The segment that a request would be in is that of the route that Envoy finds for it. Only where that is another one
-- than the cookie's, and where the cookie is renewed, a MAC is computed: half a microsecond.

local KEY = "x-serinus-key"
local SEGMENT = "x-serinus-held"
local HOP = "x-serinus-hop"
local MINE = "serinus.hold"
-- Seconds by which the clock of the Envoy that wrote a cookie may be ahead of this one's.
local SKEW = 60

-- SipHash-2-4 (Aumasson and Bernstein, 2012). Numbers with ULL are unsigned, of 64 bits, and wrap around.

local bxor, rol, lshift = bit.bxor, bit.rol, bit.lshift

local function word(bytes, first)
  local result = 0ULL
  for i = 7, 0, -1 do result = bit.bor(lshift(result, 8), (string.byte(bytes, first + i) or 0) + 0ULL) end
  return result
end

local function round(a, b, c, d)
  a = a + b; b = bxor(rol(b, 13), a); a = rol(a, 32)
  c = c + d; d = bxor(rol(d, 16), c)
  a = a + d; d = bxor(rol(d, 21), a)
  c = c + b; b = bxor(rol(b, 17), c); c = rol(c, 32)
  return a, b, c, d
end

local function siphash(secret, text)
  local low, high = word(secret, 1), word(secret, 9)
  local a, b = bxor(low, 0x736f6d6570736575ULL), bxor(high, 0x646f72616e646f6dULL)
  local c, d = bxor(low, 0x6c7967656e657261ULL), bxor(high, 0x7465646279746573ULL)
  local function mix(w)
    d = bxor(d, w)
    a, b, c, d = round(a, b, c, d)
    a, b, c, d = round(a, b, c, d)
    a = bxor(a, w)
  end
  local whole = #text - #text % 8
  for i = 1, whole, 8 do mix(word(text, i)) end
  mix(bit.bor(word(text, whole + 1), lshift(#text % 256 + 0ULL, 56)))
  c = bxor(c, 0xffULL)
  for _ = 1, 4 do a, b, c, d = round(a, b, c, d) end
  return bit.tohex(bxor(bxor(a, b), bxor(c, d)))
end

local function signed(hold, said, key)
  local secret = string.gsub(hold.secret, "..", function(byte) return string.char(tonumber(byte, 16)) end)
  return siphash(secret, said .. "." .. key)
end

-- What the cookie says, if it is still good by its times and names a segment that is there; not yet who says it.
local function read(hold, jar, now)
  local said, mac = string.match(string.match(";" .. (jar or ""), "[;,%s]" .. hold.pattern) or "", "^([%w.]+)%.(%x+)$")
  local began, written, tag = string.match(said or "", "^(%d+)%.(%d+)%.(%x+)$")
  if not tag or #began > 12 or #written > 12 then return end
  began, written = tonumber(began), tonumber(written)
  if began > written or written > now + SKEW or now - written > hold.hold or now - began > hold.longest then return end
  for segment, its in pairs(hold.tags) do
    if its == tag then return {said = said, mac = mac, began = began, written = written, tag = tag, segment = segment} end
  end
end

local function segment_of(route)
  return string.match(route or "", "^[^|]*|([^|]*)|")
end

-- The segment that this request would be in by itself.
local function declared(handle)
  handle:metadata()  -- makes Envoy choose the route, with the headers that are there by now
  return segment_of(handle:streamInfo():routeName())
end

-- Let the answer set the cookie. `tag` nil: that of the segment that the request will have been in.
local function set_on_answer(handle, headers, key, began, tag)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(MINE, "key", key)
  metadata:set(MINE, "began", string.format("%d", began))
  if tag then metadata:set(MINE, "tag", tag) end
  if headers:get("x-forwarded-proto") == "https" then metadata:set(MINE, "secure", "; Secure") end
end

-- Whether a cookie is of any use: one came, or one is being minted.
local function keeps_cookies(handle, jar)
  if jar then return true end
  local said = handle:streamInfo():dynamicMetadata():get("serinus")
  return said and said.set_cookies and #said.set_cookies > 0
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local hold = context and context:get("hold")
  if not hold then return end
  local headers = handle:headers()
  if headers:get(SEGMENT) then headers:remove(SEGMENT) end
  local key, jar = headers:get(KEY), headers:get("cookie")
  if not key or headers:get(HOP) then return end
  local now = os.time()
  local held = read(hold, jar, now)
  if held then
    local segment = declared(handle)
    local is_other = segment ~= nil and hold.tags[segment] ~= nil and segment ~= held.segment
    local is_old = now - held.written > hold.renew
    if not (is_other or is_old) then return end
    if signed(hold, held.said, key) == held.mac then
      if is_old then set_on_answer(handle, headers, key, held.began, held.tag) end
      if is_other then headers:replace(SEGMENT, held.segment) end
      return
    end
  end
  if keeps_cookies(handle, jar) then set_on_answer(handle, headers, key, now) end
end

function envoy_on_response(handle)
  local mine = handle:streamInfo():dynamicMetadata():get(MINE)
  if not mine then return end
  local context = handle:filterContext()
  local hold = context and context:get("hold")
  local segment = segment_of(handle:streamInfo():routeName())
  local tag = mine.tag or (hold and segment and hold.tags[segment])
  if not tag then return end
  local said = mine.began .. "." .. os.time() .. "." .. tag
  local value = said .. "." .. signed(hold, said, mine.key)
  handle:headers():add("set-cookie", hold.cookie .. "=" .. value .. hold.attributes .. (mine.secure or ""))
end
