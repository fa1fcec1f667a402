-- How full the queue is. ARGV: group. Returns: entries that wait, entries in flight, and the age of the oldest that waits (ms; -1:
-- none does). The age is that of the entry's id, which is the time at which it was added, unless its producer chose another.

local in_flight = redis.call('ZCOUNT', hidden, '(' .. now, '+inf')
local waiting = math.max(redis.call('XLEN', stream) - in_flight, 0)
local oldest
local function count_in(id)
  local added = tonumber(string.match(id, '^%d+'))
  oldest = math.min(oldest or added, added)
end

-- The first few are enough: who waits for a second delivery was added about when it is due.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', hidden, '-inf', now, 'LIMIT', 0, 100)) do count_in(id) end
for _, id in ipairs(redis.call('ZRANGE', delayed, 0, 99)) do count_in(id) end
if waiting > 0 then
  local new = redis.call('XRANGE', stream, '(' .. read_to(), '+', 'COUNT', 1)
  if new[1] then count_in(new[1][1]) end
end
return {waiting, in_flight, oldest and math.max(now - oldest, 0) or -1}
