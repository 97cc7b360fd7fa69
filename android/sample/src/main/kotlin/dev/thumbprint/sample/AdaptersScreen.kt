package dev.thumbprint.sample

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import dev.thumbprint.AdapterDetails
import dev.thumbprint.AdapterState

@Composable
fun AdaptersScreen(model: ChatViewModel, onPersonalizeNow: () -> Unit) {
    Column(Modifier.padding(8.dp), Arrangement.spacedBy(8.dp)) {
        Button(onPersonalizeNow) { Text(stringResource(R.string.personalize_now)) }
        val readiness = model.readiness
        if (model.adapters.isEmpty() && readiness != null) {
            Text(stringResource(R.string.nothing_learned, readiness.have.events, readiness.need.events))
        }
        LazyColumn(verticalArrangement = Arrangement.spacedBy(8.dp)) {
            items(model.adapters, key = { it.id.value }) { AdapterCard(it, model) }
        }
    }
}

@Composable
private fun AdapterCard(adapter: AdapterDetails, model: ChatViewModel) {
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(12.dp), Arrangement.spacedBy(4.dp)) {
            val state = adapter.state.name.lowercase().replace('_', ' ')
            val inUse = if (adapter.active) ", " + stringResource(R.string.in_use) else ""
            Text("${adapter.id} · $state$inUse", style = MaterialTheme.typography.titleMedium)
            Text(adapter.explanation)
            adapter.verdict?.let { Text(it.explanation) }
            for (decision in adapter.decisions) {
                Text("${decision.at}: ${decision.explanation ?: decision.kind}", style = MaterialTheme.typography.bodySmall)
            }
            Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
                if (adapter.active) {
                    OutlinedButton(model::rollBack) { Text(stringResource(R.string.roll_back)) }
                } else if (adapter.state in SERVABLE) {
                    OutlinedButton({ model.activate(adapter.id) }) { Text(stringResource(R.string.activate)) }
                }
            }
        }
    }
}

private val SERVABLE = setOf(AdapterState.TRIAL, AdapterState.PROMOTED, AdapterState.ROLLED_BACK)
