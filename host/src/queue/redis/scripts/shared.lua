-- What every script begins with. KEYS: stream, hidden, delayed, bell. ARGV[1]: the group.
--
-- A script is refused by a server without memory left only at its first write, and only if that is one that takes memory: scripts that
-- must work then (they are what makes room) begin with one that takes none.

local stream, hidden, delayed, bell = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]

-- Times are this server's, in milliseconds: workers' clocks do not matter.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A command that needs the group. Where that is not there (a stream deleted, a server that forgot), its answer is nothing.
local function of_group(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'NOGROUP', 1, true) then return false end
    -- Once more, to fail as it did.
    return redis.call(...)
  end
  return answer
end

-- How often an entry that nobody has acknowledged was delivered; nothing where there is none.
local function deliveries(id)
  local pending = of_group('XPENDING', stream, group, id, id, 1)
  return pending and pending[1] and pending[1][4]
end

-- Up to where the group has read the stream.
local function read_to()
  local found = '0-0'
  if redis.call('EXISTS', stream) == 0 then return found end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local is_ours = false
    for i = 1, #info, 2 do
      if info[i] == 'name' then is_ours = info[i + 1] == group end
      if info[i] == 'last-delivered-id' and is_ours then found = info[i + 1] end
    end
  end
  return found
end

local function first(key)
  local found = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return found[2] and tonumber(found[2])
end

-- Whoever waits has read when the first hidden entry is due, and sleeps until then at most: it is woken where one is due sooner now.
-- Nobody sleeps for longer than `longest`.
local function ring(at, before, longest)
  if at and at < now + longest and (not before or at < before) then
    redis.call('XADD', bell, 'MAXLEN', 1, '*', 'at', at)
  end
end
