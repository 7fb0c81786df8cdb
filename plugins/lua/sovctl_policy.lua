-- The site's policy: reading its file and judging a job by it. Pure but for reading that one file.
-- Used by job_submit.lua in slurmctld and by cli_filter.lua in sbatch, salloc and srun; Lua 5.1 to 5.4.
-- The file's grammar is in docs/configuration.md; plugins/spank/policy.c reads the same file on the nodes.

local policy = {}

-- The comment of the job with which `sovctl doctor` asks who is there; sovctl/site/judge_policy.py.
policy.QUESTION = "sovctl:who-is-there"

local MAX_BYTES = 64 * 1024
local MAX_RULES = 256
local MAX_WORDS = 64 -- of a line, and of a list with commas
local MAX_LINE = 4096
local ISOLATING = { "sov-isolate", "sov-image", "sov-private-network" } -- each isolates; plugins/spank/request.c
local KEYS = { partition = true, account = true }
local ENOENT = 2

-- text -> words between blanks, or nil and a reason.
local function words_of(line)
  local words = {}
  for word in line:gmatch("%S+") do
    words[#words + 1] = word
    if #words > MAX_WORDS then
      return nil, "more than " .. MAX_WORDS .. " words"
    end
  end
  return words
end

-- "a,b" -> {a = true, b = true}, or nil and a reason. The same limits as on the nodes.
local function set_of(text)
  local set, count = {}, 0
  for item in (text .. ","):gmatch("([^,]*),") do
    if not item:find("^[%w._-]+$") then
      return nil, "not a name: '" .. item .. "'"
    end
    count = count + 1
    set[item:lower()] = true
  end
  if count > MAX_WORDS then
    return nil, "more than " .. MAX_WORDS .. " names in a list"
  end
  return set
end

-- Takes the KEY=LIST words that follow the name; returns the rest of the words.
local function take_conditions(rule, words)
  local rest = {}
  for index = 3, #words do
    local key, list = words[index]:match("^(%a+)=(.+)$")
    if key and KEYS[key] and #rest == 0 then
      if rule[key] then
        return nil, key .. "= twice"
      end
      local set, problem = set_of(list)
      if not set then
        return nil, problem
      end
      rule[key] = set
    else
      rest[#rest + 1] = words[index]
    end
  end
  return rest
end

local function images_rule(rule, rest)
  if #rest == 0 then
    return nil, "an images rule needs at least one pattern"
  end
  rule.patterns = rest
  return rule
end

local function isolate_rule(rule, rest)
  if #rest ~= 0 then
    return nil, "an isolate rule takes no '" .. rest[1] .. "'"
  end
  return rule
end

local VERBS = { images = images_rule, isolate = isolate_rule }

local function rule_of(words, names)
  local make, name = VERBS[words[1]], words[2]
  if not make then
    return nil, "unknown word '" .. words[1] .. "'"
  end
  if not name or #name > 64 or not name:find("^[%w._-]+$") then
    return nil, words[1] .. " needs a name of letters, digits, '.', '_' and '-'"
  end
  if names[name] then
    return nil, "a second rule with the name " .. name
  end
  names[name] = true
  local rule = { verb = words[1], name = name }
  local rest, problem = take_conditions(rule, words)
  if not rest then
    return nil, problem
  end
  return make(rule, rest)
end

-- What the file wants done when it is broken: the first on-broken line that can be read, else "refuse".
local function on_broken_of(text)
  return ("\n" .. text):match("\n%s*on%-broken%s+(accept)%s*\n") or "refuse"
end

-- Text of the file -> {rules, on_broken}, or nil, a reason, and what to do then ("accept" or "refuse").
function policy.parse(text)
  text = text:gsub("\r\n", "\n")
  local on_broken = on_broken_of(text .. "\n")
  local rules, names, number = {}, {}, 0
  local function broken(why)
    return nil, "line " .. number .. ": " .. why, on_broken
  end
  if #text > MAX_BYTES then
    return nil, "more than " .. MAX_BYTES .. " bytes", on_broken
  end
  if text:find("\0", 1, true) then
    return nil, "a NUL byte", on_broken
  end
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    if #line > MAX_LINE then
      return broken("longer than " .. MAX_LINE .. " bytes")
    end
    local words, problem = words_of((line:gsub("#.*", "")))
    if not words then
      return broken(problem)
    elseif words[1] == "on-broken" then
      if #words ~= 2 or (words[2] ~= "accept" and words[2] ~= "refuse") then
        return broken("on-broken takes accept or refuse")
      end
    elseif words[1] then
      local rule
      rule, problem = rule_of(words, names)
      if not rule then
        return broken(problem)
      end
      rules[#rules + 1] = rule
      if #rules > MAX_RULES then
        return broken("more than " .. MAX_RULES .. " rules")
      end
    end
  end
  return { rules = rules, on_broken = on_broken }
end

-- A pattern of images as a Lua pattern: * stands for anything but '/', ** for anything.
local function lua_pattern(pattern)
  local text = pattern:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0")
  text = text:gsub("%*%*", "\1"):gsub("%*", "[^/]*"):gsub("\1", ".*")
  return "^" .. text .. "$"
end

-- The one spelling in which an image is compared, or nil and what is wrong with it.
-- docker://me@reg#org/img:tag, reg#org/img:tag and reg/org/img:tag are the same image.
function policy.image_name(image)
  if #image > 4096 or image:find("%c") then
    return nil, "it is no image name"
  end
  local name = image:gsub("^%a[%w+.-]*://", "")
  if name:sub(1, 1) == "/" then
    if (name .. "/"):find("/%.%.?/") or name:find("//", 1, true) then
      return nil, "its path must have no '.', '..' or '//' in it"
    end
    return name
  end
  if name:sub(1, 1) == "." then
    return nil, "its path must be given in full, from /"
  end
  name = name:gsub("^[^/#]*@([^#]*#)", "%1")
  return (name:gsub("#", "/", 1))
end

local function allowed(rule, image)
  for _, pattern in ipairs(rule.patterns) do
    if image:find(lua_pattern(pattern)) then
      return true
    end
  end
  return false
end

-- Whether one of the values (nil: not known) is in the rule's list. A rule without a list is for everybody.
local function concerns(list, values)
  if not list then
    return true
  end
  for _, value in ipairs(values) do
    if list[value:lower()] then
      return true
    end
  end
  return false
end

-- The rules of one verb that concern a job.
local function rules_for(rules, verb, job)
  local found = {}
  for _, rule in ipairs(rules) do
    if rule.verb == verb and concerns(rule.partition, job.partitions) and concerns(rule.account, job.accounts) then
      found[#found + 1] = rule
    end
  end
  return found
end
policy.rules_for = rules_for

local function refused_image(rules, job)
  for _, rule in ipairs(rules_for(rules, "images", job)) do
    for _, image in ipairs(job.images) do
      local name, problem = policy.image_name(image)
      if problem or not allowed(rule, name) then
        problem = problem or "it is on none of the rule's patterns"
        return rule, "the image " .. image:gsub("%c", "?"):sub(1, 200) .. " is not allowed: " .. problem
      end
    end
  end
end

-- job: {partitions, accounts, images (lists), isolated (true, false, nil: cannot be seen), task_epilog (nil: none is
-- seen)} -> nil, or rule and reason.
function policy.refusal(rules, job)
  local rule, why = refused_image(rules, job)
  if rule then
    return rule, why
  end
  rule = rules_for(rules, "isolate", job)[1]
  if rule and job.isolated == false then
    return rule, "jobs here must be isolated; add --sov-isolate, or --sov-image with an image"
  elseif rule and job.task_epilog then
    -- slurmstepd itself forks it, in the host's namespaces, also after a task that was refused (22.05 to 26.05).
    return rule, "slurmstepd would run --task-epilog outside of the isolation; leave it out"
  end
end

-- Whether one of the options that isolate was given. given(name): the option's value, or nil.
function policy.isolated(given)
  for _, name in ipairs(ISOLATING) do
    if given(name) then
      return true
    end
  end
  return false
end

function policy.words(rule, why)
  return "sovctl: refused by rule " .. rule.name .. ": " .. why
end

-- The values of a list with commas; nil and "" are an empty list.
function policy.list(text)
  local values = {}
  for value in tostring(text or ""):gmatch("[^,%s]+") do
    values[#values + 1] = value
  end
  return values
end

-- What a script answers to the question; sovctl/site/judge_policy.py reads it.
function policy.presence(script, verdict)
  local rules = #verdict.rules .. " rules in force"
  if verdict.broken then
    rules = "its policy file " .. (verdict.unread and "cannot be read" or "is broken")
  end
  return "sovctl: " .. script .. " is here: " .. rules
end

-- A file that is read again at each question and parsed when it changed. Keeps the last good rules while it is broken.
-- say(text) is called once for each state the file gets into.
function policy.file(path, say)
  local self = { rules = nil, seen = nil, unread = nil, verdict = nil }

  -- The text, or nil and why not; without a reason where there is no such file.
  local function read()
    local file, why, errno = io.open(path, "rb")
    if not file then
      return nil, errno ~= ENOENT and (why or "it cannot be opened") or nil
    end
    local text, problem = file:read(MAX_BYTES + 1)
    file:close()
    if not text and problem then
      return nil, path .. ": " .. problem
    end
    return text or ""
  end

  -- What is there and cannot be read may hold rules, so it is broken; what it says of on-broken is not known.
  local function unread(problem)
    if self.unread == (problem or "") then
      return
    end
    self.unread, self.seen = problem or "", nil
    if self.rules then
      local what = problem or path .. " is not there"
      say("sovctl: " .. what .. ": it cannot be read any more; the rules last read stay in force")
    elseif problem then
      say("sovctl: " .. problem .. ": it cannot be read; until it can every job is refused")
      self.verdict = { rules = {}, broken = problem, unread = true }
    else
      say("sovctl: there is no " .. path .. "; no rules are enforced")
      self.verdict = { rules = {} }
    end
  end

  local function changed(text)
    self.unread, self.seen = nil, text
    local parsed, problem, on_broken = policy.parse(text)
    if parsed then
      say("sovctl: " .. path .. ": " .. #parsed.rules .. " rules in force")
      self.rules, self.verdict = parsed.rules, { rules = parsed.rules }
    elseif self.rules then
      say("sovctl: " .. path .. " is broken: " .. problem .. "; the rules last read stay in force")
    else
      say("sovctl: " .. path .. " is broken: " .. problem .. "; until it is mended every job is " .. on_broken:gsub("e$", "") .. "ed")
      self.verdict = { rules = {}, broken = on_broken == "refuse" and problem or nil }
    end
  end

  -- {rules, broken}: broken is the reason when every job has to be refused.
  function self.current()
    local text, problem = read()
    if not text then
      unread(problem)
    elseif text ~= self.seen then
      changed(text)
    end
    return self.verdict
  end

  return self
end

return policy
