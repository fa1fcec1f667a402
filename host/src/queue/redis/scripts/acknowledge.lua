-- Removes entries. ARGV: group, then for each: id, deliveries.
-- Returns 1 for each that is gone now, and 0 where it was delivered again or was gone before.

local ids, answers = {}, {}
for i = 2, #ARGV, 2 do
  local is_current = tostring(deliveries(ARGV[i])) == ARGV[i + 1]
  if is_current then ids[#ids + 1] = ARGV[i] end
  answers[#answers + 1] = is_current and 1 or 0
end
if #ids > 0 then
  redis.call('XACK', stream, group, unpack(ids))
  redis.call('XDEL', stream, unpack(ids))
  redis.call('ZREM', hidden, unpack(ids))
end
return answers
