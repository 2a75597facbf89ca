"""What DRR touches in vLLM and no reading of DRR's code can see: private names, names in strings, untyped objects.

scripts/check_vllm.py reads this table, without running it, and looks each path up in a version of vLLM; its docstring
says what a path may say. Whoever reaches for something new in vLLM that the script cannot see adds it here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Touch:
    """A place in vLLM, and what it is needed for."""

    path: str
    reason: str


_STATE = "vllm.entrypoints.launchers.api_server.app_state:init_app_state"
_CHAT = "vllm.entrypoints.openai.chat_completion"
_RESPONSES = "vllm.entrypoints.openai.responses"
_ANTHROPIC = "vllm.entrypoints.anthropic"
_MODELS = "vllm.entrypoints.openai.models.serving:OpenAIServingModels"
_COMPLETION = "vllm.entrypoints.openai.completion.protocol:CompletionRequest"
_ENGINE = "vllm.v1.engine.async_llm:AsyncLLM"
_CLIENT = "vllm.v1.engine.core_client:MPClient"
_REGISTRY = "vllm.model_executor.models.registry"
_SAMPLER = "vllm.v1.sample.sampler:Sampler"
_BASIC = "vllm.entrypoints.serve.instrumentator"

TOUCHED: tuple[Touch, ...] = (
    # The app: what vLLM puts into its state, and the paths of its routes
    Touch(f"{_STATE}(state.openai_serving_chat)", "its handler is wrapped"),
    Touch(f"{_STATE}(state.openai_serving_models)", "asked for the models that are listed with DRR's aliases"),
    Touch(f"{_MODELS}.base_model_paths", "the names that may stand before an alias; asked of an untyped object"),
    Touch(f"{_MODELS}.lora_requests", "the same of LoRA adapters"),
    Touch(f"{_STATE}(state.openai_serving_responses)", "its handler is taken over"),
    Touch(f"{_STATE}(state.anthropic_serving_messages)", "its handler is taken over"),
    Touch(f'{_CHAT}.api_router:"/v1/chat/completions"', "takes a drr object"),
    Touch(f'{_RESPONSES}.api_router:"/v1/responses"', "takes a drr object"),
    Touch(f'{_ANTHROPIC}.api_router:"/v1/messages"', "takes a drr object"),
    Touch(f'{_BASIC}.health:"/health"', "DRR's own route stands before it"),
    Touch(f'{_BASIC}.basic:"/version"', "DRR's own route stands before it"),
    Touch('vllm.entrypoints.openai.models.api_router:"/v1/models"', "DRR's own route stands before it"),
    Touch(
        "vllm.engine.arg_utils:AsyncEngineArgs.structured_outputs_config.reasoning_parser",
        "read from the arguments, and set there where the operator named none",
    ),
    # The log
    Touch("vllm.entrypoints.serve.utils.request_logger:RequestLogger.log_inputs", "its lines are stripped of text"),
    Touch("vllm.entrypoints.serve.utils.request_logger:RequestLogger.log_outputs", "its lines are stripped of text"),
    # The chat handler
    Touch(f"{_CHAT}.serving:OpenAIServingChat.engine_client", "it generates through the thinking engine"),
    Touch(f"{_CHAT}.serving:OpenAIServingChat.parser_cls", "replaced by the parser that takes the loop's word"),
    Touch(f"{_CHAT}.serving:OpenAIServingChat.trust_request_chat_template", "asked of an untyped handler"),
    Touch(f"{_CHAT}.protocol:ChatCompletionRequest.to_sampling_params", "makes extra_args of vllm_xargs"),
    Touch(f"{_CHAT}.protocol:ChatCompletionRequest.include_reasoning", "asked of an untyped request"),
    Touch("vllm.parser.abstract_parser:Parser.is_reasoning_end(input_ids, /)", "vLLM asks it of DRR's parser"),
    # The handlers of Responses and Messages
    Touch(f"{_RESPONSES}.serving:OpenAIServingResponses.parser", "replaced by the parser that takes the loop's word"),
    Touch(f"{_RESPONSES}.serving:OpenAIServingResponses.use_harmony", "vLLM then parses the tokens itself"),
    Touch(f"{_RESPONSES}.protocol:ResponsesRequest.to_sampling_params", "makes extra_args of vllm_xargs"),
    Touch(f"{_RESPONSES}.protocol:ResponsesRequest.include_reasoning", "asked of an untyped request"),
    Touch(f"{_RESPONSES}.protocol:OutputTokensDetails.reasoning_tokens", "set to what was generated"),
    Touch(f"{_ANTHROPIC}.serving:AnthropicServingMessages.parser_cls", "replaced, as that of chat completions"),
    Touch(f"{_ANTHROPIC}.protocol:AnthropicMessagesRequest.vllm_xargs", "checked in the chat completion made of it"),
    Touch("vllm.envs:VLLM_USE_EXPERIMENTAL_PARSER_CONTEXT", "an environment variable: vLLM then parses turns itself"),
    Touch("vllm.sampling_params:SamplingParams.verify", "called before the thinking"),
    Touch("vllm.sampling_params:StructuredOutputsParams._backend", "which backend will compile a grammar"),
    Touch("vllm.sampling_params:StructuredOutputsParams._backend_was_auto", "whether vLLM chose it by itself"),
    # Engines
    Touch(
        f"{_ENGINE}.generate(prompt, sampling_params, request_id, /, data_parallel_rank, reasoning_ended,"
        " reasoning_parser_kwargs, trace_headers)",
        "called through a field, with options in a dictionary",
    ),
    Touch(f"{_ENGINE}.encode(prompt, pooling_params, request_id, /)", "called through a field"),
    Touch(f"{_CLIENT}.core_engines", "how many data-parallel ranks there are"),
    Touch(f"{_CLIENT}.resources.engine_manager", "the way to the engine's processes"),
    Touch("vllm.v1.engine.utils:CoreEngineProcManager.processes", "--dm-nice lowers their priority"),
    Touch(
        "vllm.engine.arg_utils:AsyncEngineArgs(dtype, enforce_eager, block_size, enable_chunked_prefill,"
        " kv_cache_memory_bytes, gpu_memory_utilization, max_num_seqs)",
        "options that come in a dictionary",
    ),
    Touch("vllm.envs:VLLM_ENABLE_V1_MULTIPROCESSING", "an environment variable that is set on a CPU"),
    Touch("vllm.envs:VLLM_LOGGING_LEVEL", "an environment variable that quietens commands"),
    # What goes in and comes out untyped
    Touch("vllm.inputs.engine:TokensInput.prompt_token_ids", "a key of the rendered prompt"),
    Touch("vllm.inputs.engine:TokensInput.prompt", "a key of the rendered prompt"),
    Touch("vllm.inputs.engine:TokensInput.cache_salt", "a key of the rendered prompt"),
    Touch("vllm.logprobs:Logprob.logprob", "log-probabilities of sampled tokens"),
    Touch("vllm.outputs:PoolingOutput.data", "what a pooling engine gives"),
    Touch('vllm.tasks:"classify"', "the DM's task, one input"),
    Touch('vllm.tasks:"token_classify"', "the DM's task, every token of an input; the process reward model's"),
    Touch('vllm.config.pooler:"STEP"', "how process reward models are pooled"),
    # Heads in the Reasoner's forward pass
    Touch('vllm.plugins:"vllm.general_plugins"', "the entry points that every process of an engine loads"),
    Touch("vllm.envs:VLLM_PLUGINS", "an environment variable that may leave DRR's plugin out"),
    Touch("vllm.envs:VLLM_RAY_EXTRA_ENV_VARS_TO_COPY", "an environment variable: workers on Ray are told of heads"),
    Touch(f"{_REGISTRY}:_ModelRegistry.models", "a judged class stands in for an entry"),
    Touch(f"{_REGISTRY}:_BaseRegisteredModel.inspect_model_cls()", "what vLLM asks of an entry"),
    Touch(f"{_REGISTRY}:_BaseRegisteredModel.load_model_cls()", "what vLLM asks of an entry"),
    Touch(
        "vllm.model_executor.models.interfaces_base:VllmModelForTextGeneration.compute_logits(hidden_states, /)",
        "overridden in a class whose base is known only when vLLM runs",
    ),
    Touch(f"{_SAMPLER}.forward(logits, sampling_metadata, /)", "wrapped"),
    Touch(f"{_SAMPLER}.gather_specific_token_logprobs(logprobs, logprob_token_ids, sampled, /)", "replaced"),
    Touch("vllm.v1.sample.metadata:SamplingMetadata.max_num_logprobs", "asked of an untyped object"),
    # Reasoning parsers, by name
    Touch('vllm.reasoning:"deepseek_r1"', "for models with <think> that were started without one"),
    Touch('vllm.reasoning:"openai_gptoss"', "for models that answer in channels"),
    Touch('vllm.reasoning:"granite"', "DRR knows the markers that it does not tell"),
    Touch("vllm.reasoning:ReasoningParser.is_reasoning_end(input_ids, /)", "asked of an untyped parser"),
    Touch("vllm.reasoning:ReasoningParser.reasoning_start_str", "asked of an untyped parser"),
    Touch("vllm.reasoning:ReasoningParser.reasoning_end_str", "asked of an untyped parser"),
    # What other vLLM servers are sent
    Touch('vllm.entrypoints.pooling.classify.api_router:"/classify"', "a DM on another server"),
    Touch("vllm.entrypoints.pooling.classify.protocol:ClassificationData.probs", "its answer"),
    Touch(f"{_COMPLETION}.return_token_ids", "an upstream's token ids"),
    Touch(f"{_COMPLETION}.return_tokens_as_token_ids", "an upstream's likeliest tokens"),
    Touch(f"{_COMPLETION}.stream_interval", "sent to an upstream where nobody waits for each token"),
    Touch(f"{_COMPLETION}.structured_outputs", "sent to an upstream"),
    Touch(f"{_COMPLETION}.cache_salt", "sent to an upstream"),
    # An engine whose core is elsewhere
    Touch("vllm.v1.engine.core_client:EngineCoreClient.make_async_mp_client", "replaced while one engine is made"),
    Touch("vllm.v1.engine.core_client:EngineCoreClient.add_request_async(request, /)", "overridden"),
    Touch("vllm.v1.engine.core_client:EngineCoreClient.abort_requests_async(request_ids, /)", "overridden"),
    Touch("vllm.v1.engine.output_processor:OutputProcessor.request_states", "the queue of a request that has failed"),
    Touch("vllm.v1.engine.output_processor:RequestState.queue", "takes the error of a request that has failed"),
    Touch("vllm.v1.engine.output_processor:RequestState.parent_req", "choices of one request fail together"),
)
