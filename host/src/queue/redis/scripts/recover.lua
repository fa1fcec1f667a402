-- Looks through entries that were delivered for some of which nobody knows when they are visible again: something else than these
-- scripts has read them, or has removed what was noted. ARGV: group, where to begin, most entries, ms since their delivery.
-- Returns where to go on, or '' at the end.

local most = tonumber(ARGV[3])
local pending = of_group('XPENDING', stream, group, 'IDLE', ARGV[4], ARGV[2], '+', most) or {}
local before, found = first(hidden), false
for _, entry in ipairs(pending) do
  local id = entry[1]
  if not redis.call('ZSCORE', hidden, id) and not redis.call('ZSCORE', delayed, id) then
    redis.call('ZADD', hidden, now, id)
    found = true
  end
end
if found then ring(now, before, 1) end
return pending[most] and '(' .. pending[most][1] or ''
