-- cli_filter/lua of sbatch, salloc and srun: the answer of job_submit.lua before anything is sent.
-- A courtesy only: it runs as the user. slurmctld and the nodes enforce.
-- Install beside slurm.conf, with sovctl_policy.lua and a readable sovctl-policy.conf.

local HERE = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local loaded, policy = pcall(dofile, HERE .. "sovctl_policy.lua")
local rules_file = loaded and policy.file(HERE .. "sovctl-policy.conf", function() end)

local function text_of(value)
  if type(value) == "string" and value ~= "" and value ~= "(null)" then
    return value
  end
end

local function plugin_option(options, plugin, name)
  local of_plugin = type(options.spank) == "table" and options.spank[plugin]
  return type(of_plugin) == "table" and text_of(of_plugin[name]) or nil
end

-- Inside a job the job's own partition and account hold, whatever the step says.
local function of_job(name)
  return os.getenv("SLURM_JOB_ID") and text_of(os.getenv(name))
end

local function described(options)
  local images = {}
  local function add(image)
    images[#images + 1] = text_of(image)
  end
  add(options.container)
  add(plugin_option(options, "sovctl", "sov-image"))
  add(plugin_option(options, "pyxis", "container-image"))
  add(os.getenv("SOVCTL_SPANK_IMAGE"))
  add(os.getenv("PYXIS_CONTAINER_IMAGE"))
  local isolated
  if options.type == "sbatch" then
    isolated = policy.isolated(function(name)
      local value = plugin_option(options, "sovctl", name)
      return value ~= "unset" and value -- as Slurm has a flag that was not given
    end)
  end
  return {
    -- The default partition and account are not known here; slurmctld knows them.
    partitions = policy.list(of_job("SLURM_JOB_PARTITION") or text_of(options.partition)),
    accounts = policy.list(of_job("SLURM_JOB_ACCOUNT") or text_of(options.account)),
    images = images,
    isolated = isolated,
    -- Only srun has it; of the others Slurm says "invalid-context".
    task_epilog = options.type == "srun" and text_of(options["task-epilog"]) or nil,
  }
end

local function refusal(options)
  local verdict = rules_file.current()
  -- Broken here need not be broken on the controller, which keeps its last good rules.
  if verdict.broken then
    return nil
  end
  local rule, why = policy.refusal(verdict.rules, described(options))
  return rule and policy.words(rule, why)
end

-- `sovctl doctor` asks with a job that is only tested. slurmctld is to hear that one too, so it is let pass here: it
-- never runs. For any other with this comment the rules hold.
local function is_question(options)
  return rules_file and options.comment == policy.QUESTION and options["test-only"] == "set"
end

local function answer()
  slurm.log_info("%s", policy.presence("cli_filter.lua", rules_file.current()))
end

function slurm_cli_setup_defaults(options, early)
  return slurm.SUCCESS
end

function slurm_cli_pre_submit(options, offset)
  local looked, asked = pcall(is_question, options)
  if looked and asked then
    pcall(answer)
    return slurm.SUCCESS
  end
  local ran, why
  if rules_file then
    ran, why = pcall(refusal, options)
  end
  if ran and why then
    slurm.log_error("%s", why)
    return slurm.ERROR
  end
  return slurm.SUCCESS
end

function slurm_cli_post_submit(offset, job_id, step_id)
  return slurm.SUCCESS
end

return slurm.SUCCESS
