-- Stands in for slurmctld and sbatch: gives a plugin the `slurm` table, calls it, prints what it did.
-- arg: the plugin's file, then a file with the questions as a Lua table.
local said = { log = {}, user = {}, error = {} }
local function into(list)
  return function(...)
    list[#list + 1] = string.format(...)
  end
end
slurm = {
  SUCCESS = 0, ERROR = -1, FAILURE = -1, ESLURM_ACCESS_DENIED = 2002, NO_VAL = 4294967294, NO_VAL16 = 65534,
  log_info = into(said.log), log_user = into(said.user), log_error = into(said.error),
}

local function quoted(value)
  if type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
  elseif type(value) ~= "table" then
    return value == nil and "null" or tostring(value)
  elseif #value > 0 or next(value) == nil then
    local items = {}
    for index, item in ipairs(value) do items[index] = quoted(item) end
    return "[" .. table.concat(items, ",") .. "]"
  end
  local items = {}
  for key, item in pairs(value) do items[#items + 1] = quoted(key) .. ":" .. quoted(item) end
  return "{" .. table.concat(items, ",") .. "}"
end

assert(dofile(arg[1]) == 0)
for _, ask in ipairs(dofile(arg[2])) do
  if ask.policy then
    local file = assert(io.open(ask.policy.path, "wb"))
    file:write(ask.policy.text)
    file:close()
  elseif ask.link then
    os.remove(ask.link)
    os.execute("ln -s '" .. ask.to .. "' '" .. ask.link .. "'")
  elseif ask.remove then
    os.remove(ask.remove)
  else
    said.user, said.error, said.log = {}, {}, {}
    slurm.log_user, slurm.log_error, slurm.log_info = into(said.user), into(said.error), into(said.log)
    local values = { ask.job, ask.record or ask.partitions, ask.record and ask.partitions or ask.uid or 1000, ask.uid or 1000 }
    local status = _G[ask.call](values[1], values[2], values[3], values[4])
    local job = {}
    for _, key in ipairs({ "comment", "requeue" }) do job[key] = ask.job[key] end
    job.touched = 1
    print(quoted({ status = status, user = said.user, error = said.error, log = said.log, job = job }))
  end
end
