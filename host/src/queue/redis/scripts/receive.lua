-- Takes entries that are visible. ARGV: group, consumer, most entries, visibility (ms), longest wait of a waiter (ms), most bytes,
-- deliveries after which an entry is given up (0: never). KEYS[5]: the stream for those.
-- Returns the entries, as {id, deliveries, fields}; and where there are none: ms until the next is due (-1: none is hidden), and the
-- ids from which to wait for news in stream and bell.

local consumer, most, visibility, longest = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local most_bytes, last_delivery, dead = tonumber(ARGV[6]), tonumber(ARGV[7]), KEYS[5]

-- So many are read in one go: what they come to in bytes is known only afterwards. The first few tell how large they are.
local few, many = 4, 64
-- So many field names and values of an entry that is given up are kept: no message has more than one field.
local most_fields = 64
-- So many new entries are looked at in one call: they may all be for later.
local looks = 1024

local found, bytes, expiries = {}, 0, {}

local function take(id, count, fields)
  for _, field in ipairs(fields) do bytes = bytes + #field end
  found[#found + 1] = {id, count, fields}
  expiries[#expiries + 1] = now + visibility
  expiries[#expiries + 1] = id
end

-- Until when an entry is to wait, in its field `due`. A lone field is the message, whatever its name.
local function due(fields)
  for i = 1, #fields > 2 and #fields or 0, 2 do
    if fields[i] == 'due' then
      local at = tonumber(fields[i + 1])
      return at and at == at and at or 0
    end
  end
  return 0
end

-- Entries that were hidden, or waited for their time, until now.
local function take_due(key)
  local ids = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, most - #found)
  for _, id in ipairs(ids) do
    if bytes >= most_bytes then return end
    redis.call('ZREM', key, id)
    local claimed = of_group('XCLAIM', stream, group, consumer, 0, id)
    local entry = claimed and claimed[1]
    if entry then
      local count = deliveries(id)
      if last_delivery > 0 and count > last_delivery then
        redis.call('XADD', dead, '*', 'id', id, 'deliveries', count, unpack(entry[2], 1, math.min(#entry[2], most_fields)))
        redis.call('XACK', stream, group, id)
        redis.call('XDEL', stream, id)
      else
        take(id, count, entry[2])
      end
    elseif claimed then
      -- Deleted by somebody while it was hidden.
      redis.call('XACK', stream, group, id)
    end
  end
end

local function read(count)
  local command = {'XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>'}
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err and string.find(answer.err, 'NOGROUP', 1, true) then
    -- From the stream's beginning: what producers have put there before anybody read it counts too.
    redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
    redis.call('DEL', hidden, delayed)
    answer = false
  end
  if not answer or answer.err then answer = redis.call(unpack(command)) end
  return answer and answer[1][2] or {}
end

local before = first(hidden)
take_due(hidden)
take_due(delayed)
while #found < most and bytes < most_bytes and looks > 0 do
  local is_small = #found > 0 and bytes / #found * many < most_bytes
  local count = math.min(most - #found, is_small and many or few)
  local entries = read(count)
  for _, entry in ipairs(entries) do
    local at = due(entry[2])
    if at > now then
      -- Not delivered to anybody yet.
      redis.call('XCLAIM', stream, group, consumer, 0, entry[1], 'RETRYCOUNT', 0, 'JUSTID')
      redis.call('ZADD', delayed, at, entry[1])
    else
      take(entry[1], 1, entry[2])
    end
  end
  looks = looks - #entries
  if #entries < count then break end
end

if #found > 0 then
  redis.call('ZADD', hidden, unpack(expiries))
  ring(now + visibility, before, longest)
  return {found, -1, '', ''}
end

local next_due = math.min(first(hidden) or math.huge, first(delayed) or math.huge)
local rung = redis.call('XREVRANGE', bell, '+', '-', 'COUNT', 1)
return {found, next_due == math.huge and -1 or math.max(next_due - now, 0), read_to(), rung[1] and rung[1][1] or '0-0'}
