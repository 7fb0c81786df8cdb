-- slurmctld's job_submit/lua: stamps jobs that sovctl supervises and enforces the site's policy on every job.
-- Install beside slurm.conf, with sovctl_policy.lua; the rules stand in sovctl-policy.conf there.
-- Any field of a job may be nil or NO_VAL. An error here would let every job pass (job_submit/lua of 22.05 only logs
-- it), so each part runs under pcall, and a part that fails while there are rules refuses the job.

local HERE = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local policy = dofile(HERE .. "sovctl_policy.lua")

local TAG = "sovctl:managed"
local OPTION = "_SLURM_SPANK_OPTION_"
local function say(text)
  -- The text goes through string.format.
  slurm.log_info("%s", text)
end
local rules_file = policy.file(HERE .. "sovctl-policy.conf", say)

local function text_of(value)
  if type(value) == "string" and value ~= "" then
    return value
  end
end

-- NO_VAL, or whatever else is no table, is an empty one.
local function table_of(value)
  return type(value) == "table" and value or {}
end

-- The batch script that `sovctl submit` writes starts the supervisor in one line; sovctl/submit/script.py.
local function is_managed(script)
  return type(script) == "string" and ("\n" .. script):find("\nexec [^\n]* %-P %-m sovctl supervise ") ~= nil
end

local function tagged(comment)
  comment = text_of(comment)
  if not comment then
    return TAG
  elseif (" " .. comment .. " "):find(" " .. TAG .. " ", 1, true) then
    return comment
  end
  return comment .. " " .. TAG
end

local function stamp(job)
  if not is_managed(job.script) then
    return
  end
  -- --no-requeue is 0 and the user's own word; unset is NO_VAL16.
  if job.requeue ~= 0 and job.requeue ~= 1 then
    job.requeue = 1
  end
  local comment = tagged(job.comment)
  if comment ~= job.comment then
    job.comment = comment
  end
end

local function default_partition(partitions)
  for name, partition in pairs(table_of(partitions)) do
    if partition.flag_default == 1 then
      return name
    end
  end
end

-- The values of SPANK options that sbatch and salloc hand over: {["sovctl_sov_image"] = "..."}.
local function spank_options(job)
  local found = {}
  for _, entry in pairs(table_of(job.spank_job_env)) do
    local name, value = tostring(entry):match("^" .. OPTION .. "([^=]+)=(.*)$")
    if name then
      found[name] = value
    end
  end
  return found
end

-- A variable of a batch job; slurmctld logs a line when the environment of another kind of job is asked for.
local function variable(job, name)
  if job.script then
    return text_of(table_of(job.environment)[name])
  end
end

local function images_of(job, options)
  local images = {}
  local function add(image)
    images[#images + 1] = text_of(image)
  end
  add(job.container)
  add(options.sovctl_sov_image)
  add(options.pyxis_container_image)
  add(variable(job, "SOVCTL_SPANK_IMAGE"))
  add(variable(job, "PYXIS_CONTAINER_IMAGE"))
  return images
end

local function described(job, partitions)
  local options = spank_options(job)
  local isolated
  if job.script then
    isolated = policy.isolated(function(name)
      return options["sovctl_" .. name:gsub("-", "_")]
    end)
  end
  -- srun hands no options to slurmctld and salloc starts nothing by itself: the node looks at their steps.
  return {
    partitions = policy.list(text_of(job.partition) or default_partition(partitions)),
    accounts = policy.list(text_of(job.account) or text_of(job.default_account)),
    images = images_of(job, options),
    isolated = isolated,
  }
end

local function refusal(job, partitions)
  local verdict = rules_file.current()
  if verdict.broken then
    return "sovctl: refused by rule on-broken: the site's policy file is broken; tell the administrator"
  elseif #verdict.rules > 0 then
    local rule, why = policy.refusal(verdict.rules, described(job, partitions))
    return rule and policy.words(rule, why)
  end
end

-- `sovctl doctor` asks with a job that is only tested; the rules hold for one with this comment as for any other.
local function answer(job)
  if job.comment == policy.QUESTION then
    slurm.log_user("%s", policy.presence("job_submit.lua", rules_file.current()))
  end
end

function slurm_job_submit(job, partitions, submit_uid)
  pcall(answer, job)
  local ran, why = pcall(refusal, job, partitions)
  if not ran then
    slurm.log_error("%s", "sovctl: cannot judge a job: " .. tostring(why))
    why = "sovctl: refused: the site's policy could not be applied; tell the administrator"
  end
  if why then
    slurm.log_user("%s", why)
    return slurm.ESLURM_ACCESS_DENIED
  end
  local stamped, problem = pcall(stamp, job)
  if not stamped then
    slurm.log_error("%s", "sovctl: cannot stamp a job: " .. tostring(problem))
  end
  return slurm.SUCCESS
end

-- A change may not take a job where it would not have been let in. What SPANK options it has cannot be seen any more,
-- so a rule about isolation that did not hold before the change refuses it.
local function modify_refusal(change, job, partitions)
  local verdict = rules_file.current()
  if verdict.broken or not (text_of(change.partition) or text_of(change.account)) then
    return
  end
  local now = {
    partitions = policy.list(text_of(change.partition) or job.partition),
    accounts = policy.list(text_of(change.account) or job.account),
    images = { text_of(job.container) },
  }
  local rule, why = policy.refusal(verdict.rules, now)
  if rule then
    return policy.words(rule, why)
  end
  local before = { partitions = policy.list(job.partition), accounts = policy.list(job.account) }
  local held = {}
  for _, old in ipairs(policy.rules_for(verdict.rules, "isolate", before)) do
    held[old.name] = true
  end
  for _, new in ipairs(policy.rules_for(verdict.rules, "isolate", now)) do
    if not held[new.name] then
      return policy.words(new, "jobs there must be isolated; submit it anew with --sov-isolate")
    end
  end
end

-- A new comment does not take the tag away.
local function keep_tag(change, job)
  if text_of(change.comment) and text_of(job.comment) and tagged(job.comment) == job.comment then
    local comment = tagged(change.comment)
    if comment ~= change.comment then
      change.comment = comment
    end
  end
end

function slurm_job_modify(change, job, partitions, submit_uid)
  local ran, why = pcall(modify_refusal, change, job, partitions)
  if not ran then
    slurm.log_error("%s", "sovctl: cannot judge a change: " .. tostring(why))
    why = submit_uid ~= 0 and "sovctl: refused: the site's policy could not be applied" or nil
  end
  if why and submit_uid ~= 0 then
    -- slurmctld hands no words to scontrol here (22.05 discards them with an error), so they go to the log.
    say(why .. " (job " .. tostring(job.job_id) .. ")")
    return slurm.ESLURM_ACCESS_DENIED
  end
  pcall(keep_tag, change, job)
  return slurm.SUCCESS
end

slurm.log_info("%s", "sovctl: job_submit.lua is loaded")
rules_file.current()
return slurm.SUCCESS
